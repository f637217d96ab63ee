"""Builds Grafana's JSON of the panels with the Grafana Foundation SDK."""

from __future__ import annotations

from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.timeseries import Panel as TimeseriesPanel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

from llmstack.dashboard.panels import ROWS, Panel

UID, TITLE = "llmstack", "LLM serving stack"
_HEIGHT, _WIDTH = 8, 8
_DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard_json() -> str:
    """The JSON of the dashboard, the same every time."""
    dashboard = (
        Dashboard(TITLE)
        .uid(UID)
        .tags(["llmstack"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("utc")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for title, panels in ROWS.items():
        dashboard = dashboard.with_row(Row(title))
        for panel in panels:
            dashboard = dashboard.with_panel(_stat(panel) if panel.is_stat else _timeseries(panel))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(dashboard.build())
    return text + "\n"


def _stat(panel: Panel) -> StatPanel:
    made = StatPanel().title(panel.title).description(panel.description).unit(panel.unit)
    made = made.height(_HEIGHT).span(_WIDTH).datasource(_DATASOURCE)
    for query in _queries(panel):
        made = made.with_target(query)
    return made


def _timeseries(panel: Panel) -> TimeseriesPanel:
    made = TimeseriesPanel().title(panel.title).description(panel.description).unit(panel.unit)
    made = made.height(_HEIGHT).span(_WIDTH).datasource(_DATASOURCE).min(0)
    if panel.limit is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=panel.limit, color="red")]
        made = made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        made = made.thresholds_style(GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE))
    for query in _queries(panel):
        made = made.with_target(query)
    return made


def _queries(panel: Panel) -> list[Dataquery]:
    return [
        Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + number))
        for number, query in enumerate(panel.queries)
    ]
