"""The flags, header pattern and environment of tritonserver."""

import os
import re
import sys
from pathlib import Path

import pytest

from llm_policy.guidance.backends.names import ENVIRONMENT_VARIABLE, usable_backends
from llmstack.server.binary import ServerBinary
from llmstack.server.command import (
    DECOUPLED,
    ENGINES,
    UNARY,
    admin_flags,
    check_mode,
    entry_model,
    header_pattern,
    model_flags,
    parse_tracing,
    server_environment,
    trace_flags,
)
from llmstack.server.error import ServerStartError

BINARY = ServerBinary(Path("/t/tritonserver"), Path("/t/backends"), library_dirs=(Path("/t/libs"),))


@pytest.mark.parametrize(
    "name",
    ["X-Engine-Hash", "x-engine-hash", "X-QUANTISATION", "x-tenant", "X-Request-ID", "Authorization", "x-api-key"],
)
def test_known_headers_are_forwarded_in_any_case(name):
    assert re.search(header_pattern(), name)


@pytest.mark.parametrize("name", ["X-Engine-Hash-2", "my-x-tenant", "triton_final_response", "proxy-authorization", ""])
def test_no_other_header_is_forwarded(name):
    assert not re.search(header_pattern(), name)


@pytest.mark.parametrize(
    ("engine", "config"), [("embedded", "engine_process"), ("vllm", "engine_process"), ("tensorrtllm", None)]
)
def test_an_engine_selects_a_configuration_of_the_model(engine, config):
    flags = model_flags([Path("/m")], Path("/b"), engine)
    assert {"--model-repository=/m", "--backend-directory=/b"} <= set(flags)
    selected = [flag for flag in flags if flag.startswith("--model-config-name=")]
    assert selected == ([f"--model-config-name={config}"] if config else [])


def test_every_model_is_loaded_at_the_start_and_each_can_be_loaded_anew():
    flags = model_flags([Path("/m")], Path("/b"), "embedded")
    assert {"--model-control-mode=explicit", "--load-model=*"} <= set(flags)


def test_tensorrt_llms_backend_serves_either_the_ensemble_or_streams(tmp_path):
    for model in ("preprocess", "tensorrt_llm", "postprocess", "ensemble", "ensemble_stream", "another"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").touch()

    def loaded(mode):
        flags = model_flags([tmp_path], Path("/b"), "tensorrtllm", mode)
        return {flag.removeprefix("--load-model=") for flag in flags if flag.startswith("--load-model=")}, flags

    models, flags = loaded(UNARY)
    assert models == {"another", "preprocess", "tensorrt_llm", "postprocess", "ensemble"}
    models, flags = loaded(DECOUPLED)
    assert models == {"another", "tensorrt_llm", "ensemble_stream"}
    assert "--model-config-name=decoupled" in flags
    assert (entry_model("tensorrtllm"), entry_model("tensorrtllm", DECOUPLED)) == ("ensemble", "ensemble_stream")


@pytest.mark.parametrize("engine", ["echo", "vllm", None])
def test_only_a_chosen_tensorrt_llm_backend_can_be_decoupled(engine):
    with pytest.raises(ServerStartError, match="--tensorrtllm-mode decoupled does not go with"):
        check_mode(engine, DECOUPLED)
    assert check_mode(engine, UNARY) == UNARY
    assert check_mode("tensorrtllm", DECOUPLED) == DECOUPLED


def test_both_protocols_restrict_the_same_apis():
    assert {flag.split("=", 1)[1] for flag in admin_flags("k")} == {
        "model-repository,shared-memory,trace,logging:x-llmstack-admin-key=k"
    }


def test_the_environment_leads_to_this_python_and_keeps_the_given_values():
    given = {"PATH": "/usr/bin", "OMP_NUM_THREADS": "3", "LD_LIBRARY_PATH": "/mine"}
    environment = server_environment(BINARY, Path("/r"), Path("/s"), "embedded", given)
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert environment["LD_LIBRARY_PATH"] == "/t/libs:/mine"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["LLMSTACK_PYTHON"] == sys.executable
    assert (environment["LLMSTACK_RELEASE_DIR"], environment["LLMSTACK_STATE_DIR"]) == ("/r", "/s")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_policy_takes_the_guide_backends_of_the_engine(engine):
    given = {ENVIRONMENT_VARIABLE: "another"}
    environment = server_environment(BINARY, Path("/r"), Path("/s"), engine, given)
    expected = {"tensorrtllm": ("xgrammar",), "vllm": ("llguidance",), "trtllm-api": ("llguidance",)}
    assert usable_backends("auto", environment) == expected.get(engine, ("llguidance", "xgrammar"))


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://collector/v1", "http:///v1/traces", ""])
def test_a_trace_url_that_is_not_whole_is_an_error(url):
    with pytest.raises(ServerStartError, match="is not an http"):
        parse_tracing(url, 1)


def test_tracing_sends_spans_to_its_collector_at_its_rate():
    flags = trace_flags(parse_tracing("http://collector:4318/v1/traces", 100))
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in flags
    assert "--trace-config=rate=100" in flags
    assert trace_flags(None) == []
