"""The memory plan: its numbers for Qwen3-32B, and the laws that they follow."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.capacity.memory_plan import CapacityError, KvShape, MemoryPlan, parse_size
from llmstack.capacity.model_shapes import QWEN3_32B
from tests.survivors import keep_if, keeps_at_least

SIZES = st.integers(1, 10**12)
SMALL = st.integers(1, 10**9) | SIZES
PER_TOKEN = st.integers(1, 1_000) | st.integers(1, 10**6)


def test_a_token_of_qwen3_32b_has_a_key_and_a_value_in_every_layer_and_kv_head():
    assert KvShape.from_config(QWEN3_32B) == KvShape(64, 8, 128)
    assert KvShape.from_config(QWEN3_32B).bytes_per_token(1) == 131_072
    assert KvShape.from_config(QWEN3_32B).bytes_per_token(2) == 262_144


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads"])
def test_the_error_for_a_configuration_without_a_number_names_it(name):
    with pytest.raises(CapacityError, match=f"the model's configuration has no {name}"):
        KvShape.from_config(QWEN3_32B | {name: None})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32GB", 32 * 10**9),
        ("32GiB", 32 * 2**30),
        ("1.5gb", 1_500_000_000),
        ("7000000", 7_000_000),
        ("0", 0),
        ("0.5KiB", 512),
    ],
)
def test_a_size_has_a_decimal_or_a_binary_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "1.5", "999999"])
def test_a_small_number_without_a_unit_is_an_error_that_says_what_to_write(text):
    with pytest.raises(CapacityError, match=f"'{text}' is not a size: it means .* bytes; write {text}GB or {text}GiB"):
        parse_size(text)


NUMBERS = st.integers(0, 10**12).map(str) | st.builds("{}.{}".format, st.integers(0, 999), st.integers(0, 999))
UNITS = st.sampled_from(["", "gb", "GiB", " TB", "kib"])
SIZE_TEXTS = st.builds(str.__add__, NUMBERS, UNITS)
NEARLY_SIZES = st.builds(str.__add__, st.sampled_from([".5", "1e3", "-1", "0x10", "١٢", ""]), UNITS) | st.builds(
    str.__add__, NUMBERS, st.sampled_from(["Gb/s", "G", " . "])
)


@keeps_at_least(0.1)
@given(st.text(max_size=12) | SIZE_TEXTS | NEARLY_SIZES)
def test_any_text_is_parsed_as_a_size_or_raises_a_capacity_error(text):
    try:
        size = parse_size(text)
    except CapacityError as error:
        assert "is not a size" in str(error)
        size = None
    keep_if(size is not None)
    assert size >= 0


@keeps_at_least(0.1)
@given(SIZES, SMALL, SMALL, PER_TOKEN, st.integers(1, 10_000), st.integers(1, 64), st.fractions(0, 0.9))
def test_the_requests_that_fit_leave_the_headroom(gpu, engine, reserved, per_token, tokens, batch, headroom):
    plan = MemoryPlan(gpu, engine, reserved, per_token, tokens, batch, headroom)
    taken = plan.num_requests * plan.bytes_per_request
    assert taken <= max(0, plan.free_bytes) * (1 - headroom)
    assert taken + plan.bytes_per_request > plan.usable_bytes
    keep_if(plan.batch_fits)
    assert plan.actual_headroom >= float(headroom) - 1e-9


@given(SIZES, st.integers(1, 10**6), st.integers(1, 10_000))
def test_more_memory_never_fits_fewer_requests(gpu, per_token, tokens):
    small, large = (
        MemoryPlan(size, 0, 0, per_token, tokens, 1, Fraction(1, 4)).num_requests for size in (gpu, gpu + 10**9)
    )
    assert small <= large
