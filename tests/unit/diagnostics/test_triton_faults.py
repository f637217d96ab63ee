"""What the doctor says about requests that stop a server of a given release."""

import pytest

from llmstack.diagnostics.check_result import CheckStatus
from llmstack.diagnostics.image_tag import parse_tag
from llmstack.diagnostics.triton_faults import TRITON_FAULTS, check_triton_faults, faults_of


def result_for(deployment, tag):
    return check_triton_faults(deployment._replace(image=parse_tag(tag)))


def test_the_default_image_has_the_faults_that_were_fixed_after_it(deployment):
    result = result_for(deployment, "25.10-trtllm-python-py3")
    assert result.status is CheckStatus.WARN
    for fault in (
        "an accept-encoding header with a large q value (26.02)",
        "triton_grpc_error metadata on a stream (26.04)",
    ):
        assert fault in result.text
    for fixed in ("nested JSON", "classification", "chunks"):
        assert fixed not in result.text
    assert "gateway" in result.next_step


def test_only_an_old_release_has_a_fault_that_passes_the_gateway(deployment):
    assert "--no-grpc" in result_for(deployment, "25.03-trtllm-python-py3").next_step
    assert "--no-grpc" not in result_for(deployment, "25.04-trtllm-python-py3").next_step


@pytest.mark.parametrize("tag", ["26.04-trtllm-python-py3", "26.07-trtllm-python-py3", "27.01-py3"])
def test_a_release_with_every_fix_has_no_known_fault(deployment, tag):
    assert result_for(deployment, tag).status is CheckStatus.OK


def test_a_release_has_a_fault_until_the_one_that_fixes_it():
    for fault in TRITON_FAULTS:
        year, month = fault.fixed_in
        assert fault in faults_of((year, month - 1))
        assert fault not in faults_of((year, month))


def test_faults_are_in_the_order_of_their_fixes():
    fixes = [fault.fixed_in for fault in faults_of((24, 10))]
    assert fixes == sorted(fixes)
    assert len(fixes) == len(TRITON_FAULTS)


@pytest.mark.parametrize(("version", "status"), [("0.7.0", CheckStatus.WARN), ("0.9.1", CheckStatus.SKIPPED)])
def test_outside_an_image_the_installed_package_tells_the_release(deployment, install, monkeypatch, version, status):
    monkeypatch.delenv("NVIDIA_TRITON_SERVER_VERSION", raising=False)
    install("nvidia_pytriton", version)
    result = check_triton_faults(deployment)
    assert result.status is status
    assert ("24.10" in result.text) == (status is CheckStatus.WARN)


def test_an_image_overrides_an_installed_package(deployment, install):
    install("nvidia_pytriton", "0.7.0")
    assert "25.10" in result_for(deployment, "25.10-trtllm-python-py3").text
