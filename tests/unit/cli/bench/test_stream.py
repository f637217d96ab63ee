"""`llmstack bench stream`: its table."""

import io

from rich.console import Console

from llmstack.bench.stream_overhead import WAYS, StreamMeasurement, StreamPlan
from llmstack.cli.bench.stream import results_table


def test_the_table_has_every_figure_whole_on_a_terminal_of_80_columns():
    figures = (640, 312.09, -210.41, 10.417, 133.219, -0.093, 0.9912, 6500.4, 1.0, 1120.4, 8123, 120.0)
    rows = [StreamMeasurement(way, 64, *figures) for way in WAYS]
    output = io.StringIO()
    Console(file=output, width=80).print(results_table(rows, StreamPlan()))
    text = output.getvalue()
    assert "…" not in text
    for way in WAYS:
        (line,) = (line for line in text.splitlines() if line.startswith(f" {way} "))
        assert line.split()[1:] == ["64", "312.09", "-210.41", "10.42", "-0.093", "6500", "1120", "8123", "120"]
