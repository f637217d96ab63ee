"""The weights of a model on one GPU: their size for Qwen3-32B, and the laws of splitting them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.capacity.memory_plan import CapacityError, KvShape, Parallelism
from llmstack.capacity.model_shapes import QWEN3_32B
from llmstack.capacity.weights import FORMATS, weight_share

GIB = 2**30
SPLITS = st.builds(Parallelism, st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.integers(1, 64))
FORMAT_NAMES = st.sampled_from(sorted(FORMATS))


ONE_GPU = Parallelism()


def qwen(name: str, parallelism: Parallelism = ONE_GPU) -> int:
    return weight_share(QWEN3_32B, FORMATS[name], parallelism).total_bytes


@pytest.mark.parametrize(("name", "gib"), [("w4a8", 19.25), ("w4a16", 17.88), ("fp8", 31.96), ("bf16", 61.02)])
def test_the_weights_of_qwen3_32b_without_norms(name, gib):
    assert qwen(name) / GIB == pytest.approx(gib, abs=0.01)


def test_w4a8_is_close_to_what_vllm_measured_on_an_h200():
    assert 0 < 19.6 - qwen("w4a8") / GIB < 0.5  # 19.6 GiB, with norms and buffers


def test_bf16_has_two_bytes_for_each_of_the_models_32_8_billion_parameters():
    assert qwen("bf16") / 2 == pytest.approx(32.76e9, rel=0.001)


def test_two_gpus_hold_half_of_the_weights_each():
    assert qwen("w4a8", Parallelism(tensor=2)) * 2 == qwen("w4a8")
    assert qwen("w4a8", Parallelism(pipeline=2)) * 2 == qwen("w4a8")


def test_a_gpu_holds_at_least_one_kv_head_and_its_share_of_the_layers_rounded_up():
    shape = KvShape.from_config(QWEN3_32B)
    assert shape.per_gpu(Parallelism(16, 1)) == KvShape(64, 1, 128)
    assert shape.per_gpu(Parallelism(2, 3)) == KvShape(22, 4, 128)


def test_tied_embeddings_are_there_once():
    tied = weight_share({**QWEN3_32B, "tie_word_embeddings": True}, FORMATS["bf16"], ONE_GPU)
    assert tied.embedding_bytes == 151_936 * 5_120 * 2
    assert weight_share(QWEN3_32B, FORMATS["bf16"], ONE_GPU).embedding_bytes == 2 * tied.embedding_bytes


@given(FORMAT_NAMES, SPLITS)
def test_the_gpus_together_hold_at_least_the_whole_model(name, split):
    assert qwen(name, split) * split.num_gpus >= qwen(name) - 4 * 151_936 * 5_120
    assert qwen(name, split) <= qwen(name)


@given(SPLITS)
def test_more_bits_never_take_less_memory(split):
    sizes = [qwen(name, split) for name in ("w4a16", "w4a8", "fp8", "bf16")]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("split", "reason"),
    [(Parallelism(3, 1), "64 attention heads"), (Parallelism(1, 65), "64 layers can't be split over 65")],
)
def test_a_model_that_can_not_be_split_is_an_error(split, reason):
    with pytest.raises(CapacityError, match=reason):
        split.check(QWEN3_32B)


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "intermediate_size"])
def test_the_error_for_a_missing_number_names_it(name):
    with pytest.raises(CapacityError, match=f"has no {name}"):
        weight_share(QWEN3_32B | {name: None}, FORMATS["fp8"], ONE_GPU)


def test_a_model_with_experts_is_an_error():
    with pytest.raises(CapacityError, match="experts"):
        weight_share(QWEN3_32B | {"num_experts": 128}, FORMATS["fp8"], ONE_GPU)
