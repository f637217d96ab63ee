"""Keys have names for people, with their unit."""

import pytest

from llmstack.board.template_filters import key_label, label_of, table_label


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("max_queue_delay_us", "Max queue delay (µs)"),
        ("queue_delay_us_p99", "Queue delay p99 (µs)"),
        ("input_usd_per_million", "Input USD per million"),
        ("max_cost_usd", "Max cost (USD)"),
        ("duration_s", "Duration (s)"),
        ("num_passed", "Number of passed"),
        ("max_registered_string_cost_ms", "Max registered string cost (ms)"),
        ("hash", "Hash"),
        ("s", "S"),
        ("", ""),
    ],
)
def test_a_key_is_named_in_words(key, label):
    assert label_of(key) == label


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("on_cost_breach", "On cost breach"),
        ("engine.max_batch_size", "Engine: max batch size"),
        ("tasks.rank_candidates.top_p", "Tasks: rank_candidates, top p"),
        ("schemas.my_order", "Schemas: my_order"),
        ("schema hashes.my_order", "Schema hashes: my_order"),
    ],
)
def test_a_dotted_key_names_its_table_and_keeps_names(key, label):
    assert key_label(key) == label


def test_a_table_keeps_the_names_of_tasks():
    assert [table_label(table) for table in ("tasks.rank_candidates", "guidance.limits", "general")] == [
        "Tasks: rank_candidates",
        "Guidance: limits",
        "General",
    ]
