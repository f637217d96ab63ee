"""The summary of the guides bench."""

from __future__ import annotations

from llmstack.guides.schema_result import InstanceResult, SchemaResult, percentiles, summarise


def test_rates_are_fractions_of_the_instances_of_accepted_schemas() -> None:
    instances = [
        InstanceResult(valid=True, judged_valid=True, accepted=True, in_order=True),
        InstanceResult(valid=True, judged_valid=True, accepted=False, in_order=False),
        InstanceResult(valid=False, judged_valid=True, accepted=True, in_order=True),
    ]
    report = summarise([SchemaResult("a", instances=instances), SchemaResult("b", refusal="schema_invalid")])
    assert (report["schemas"], report["accepted"], report["refused"]) == (2, 1, {"schema_invalid": 1})
    assert (report["false_accept_rate"], report["false_reject_rate"], report["false_reject_rate_all"]) == (
        1.0,
        0.0,
        0.5,
    )
    assert report["valid_flag_errors"] == 1


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
