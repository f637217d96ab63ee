"""What the doctor knows about the tags of NVIDIA's images."""

import pytest

from llmstack.diagnostics.image_tag import ImageTag, parse_tag


@pytest.mark.parametrize("tag", ["25.09", "25.10", "25.12", "26.02", "26.04", "26.07"])
def test_tags_from_25_09_to_26_07_have_every_feature(tag):
    assert parse_tag(f"{tag}-trtllm-python-py3").errors() == []


def test_tag_24_05_is_rejected_with_every_reason():
    errors = "; ".join(parse_tag("nvcr.io/nvidia/tritonserver:24.05-trtllm-python-py3").errors())
    for reason in ("guided decoding at all before TensorRT-LLM 0.16", "0.19", "Qwen3", "1.0", "Blackwell"):
        assert reason in errors


@pytest.mark.parametrize(("tag", "reason"), [("25.05", "Qwen3"), ("25.07", "Qwen3"), ("26.08", "C++ engine backend")])
def test_tags_outside_the_range_are_rejected_with_the_missing_feature(tag, reason):
    assert reason in "; ".join(parse_tag(f"{tag}-trtllm-python-py3").errors())


def test_a_tag_with_another_suffix_has_no_backend():
    assert "have TensorRT-LLM's backend" in ImageTag(25, 10, "py3").errors()[0]


@pytest.mark.parametrize("text", ["", "latest", "25.13-trtllm-python-py3", "tritonserver", "25.10.1", "x:y"])
def test_text_of_another_form_is_not_a_tag(text):
    assert parse_tag(text) is None


def test_a_digest_after_the_tag_is_ignored():
    assert parse_tag(f"tritonserver:25.10-trtllm-python-py3@sha256:{'0' * 64}") == ImageTag(25, 10)


@pytest.mark.parametrize(
    ("tag", "between"), [("24.12", "0.9 and 0.19"), ("25.04", "0.9 and 0.19"), ("25.08", "0.20 and 1.0")]
)
def test_a_tag_between_two_known_ones_has_a_range_of_versions(tag, between):
    image = parse_tag(f"{tag}-trtllm-python-py3")
    assert f"TensorRT-LLM between {between}" in image.description
    assert any(warning.startswith("perhaps no Qwen3") for warning in image.warnings()) == (tag == "25.08")
