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


@pytest.mark.parametrize("tag", ["24.12", "25.04"])
def test_a_tag_between_two_known_ones_has_a_range_of_versions(tag):
    image = parse_tag(f"{tag}-trtllm-python-py3")
    assert "TensorRT-LLM between 0.9 and 0.19" in image.description
    assert any(warning.startswith("perhaps no guided decoding") for warning in image.warnings())


@pytest.mark.parametrize(("tag", "version"), [("25.08", "0.21"), ("25.11", "1.0"), ("26.03", "1.2")])
def test_the_tags_beside_changes_of_tensorrt_llm_have_known_versions(tag, version):
    assert parse_tag(f"{tag}-trtllm-python-py3").description.endswith(f"TensorRT-LLM {version}")


@pytest.mark.parametrize(
    ("tag", "version"), [("25.11", "0.11"), ("26.05", "0.19"), ("26.07", "0.24"), ("26.08", "0.27")]
)
def test_a_supported_vllm_of_another_version_than_the_adapters_is_a_warning(tag, version):
    image = parse_tag(f"{tag}-vllm-python-py3")
    assert image.description.endswith(f"vLLM {version}")
    assert image.vllm_errors() == []
    assert (image.vllm_warnings() == []) == (version == "0.24")


def test_an_older_vllm_and_an_image_without_vllm_are_rejected():
    assert "vLLM before 0.11" in parse_tag("25.10-vllm-python-py3").vllm_errors()[0]
    assert "have vLLM" in parse_tag("26.07-trtllm-python-py3").vllm_errors()[0]
    assert "have TensorRT-LLM's backend" in parse_tag("26.07-vllm-python-py3").errors()[0]


def test_an_installed_vllm_overrides_the_tags():
    image = parse_tag("26.08-vllm-python-py3")._replace(installed=(0, 24))
    assert image.vllm_warnings() == []
