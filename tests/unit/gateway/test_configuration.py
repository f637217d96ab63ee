"""The rendered configuration, and how it replaces an existing one."""

import json
import re
from pathlib import Path

import pytest

from llm_policy.release.release import Release
from llmstack.gateway import configuration
from llmstack.gateway.backend import Address, Backend
from llmstack.gateway.configuration import (
    GUARD_FILE,
    MODULE_FILES,
    OPENAI_MODEL_PATH,
    GatewayConfiguration,
    GatewayError,
    Limits,
    write_configuration,
)
from llmstack.paths import DEFAULT_RELEASE_DIR

TWO = [Backend("triton-1", 8000, 8001, 8003), Backend("[::1]", 9000, 9001, 9003)]


def test_every_backend_serves_both_protocols_and_is_checked_once():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua").render()
    assert "server s1 triton-1:8000 port 8003\n" in text
    assert "server s2 [::1]:9000 port 9003\n" in text
    assert "server s1 triton-1:8001 proto h2 track triton_http/s1\n" in text
    assert "server s2 [::1]:9001 proto h2 track triton_http/s2\n" in text


def test_the_guard_has_no_time_limit():
    # HAProxy forwards data that a filter did not see because it timed out.
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua").render()
    assert "tune.lua.session-timeout 0\n" in text


def test_a_configuration_without_backends_is_rejected():
    with pytest.raises(GatewayError, match="--backend"):
        GatewayConfiguration([], "/gateway.pem", "/guard.lua").render()


@pytest.mark.parametrize("certificate", ["/a b.pem", "/a.pem\n  bind *:1", '/a".pem', "/a.pem#", "/$HOME.pem", ""])
def test_a_value_can_not_become_a_directive(certificate):
    with pytest.raises(GatewayError, match="certificate"):
        GatewayConfiguration(TWO, certificate, "/guard.lua").render()


def test_the_guard_is_written_beside_the_configuration(tmp_path: Path):
    guard = write_configuration(GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua"), tmp_path / "haproxy.cfg")
    assert guard == tmp_path / GUARD_FILE
    assert "lua-load-per-thread /guard.lua\n" in (tmp_path / "haproxy.cfg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"haproxy.cfg", GUARD_FILE, *MODULE_FILES}


def test_every_module_of_the_guard_is_written():
    directory = Path(configuration.__file__).parent
    assert {path.name for path in directory.glob("*.lua")} == {GUARD_FILE, *MODULE_FILES}


def test_haproxy_finds_the_modules_beside_the_guard():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/etc/haproxy/guard.lua").render()
    assert text.index("lua-prepend-path /etc/haproxy/?.lua\n") < text.index("lua-load-per-thread")


def test_a_configuration_that_haproxy_rejects_does_not_replace_the_old_one(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    write_configuration(GatewayConfiguration(TWO, "/gateway.pem", str(tmp_path / GUARD_FILE)), output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    checked = []

    def find_errors(path: Path) -> str:
        checked.append(path.read_text())
        return "line 3 is wrong"

    invalid = GatewayConfiguration(TWO, "/other.pem", str(tmp_path / GUARD_FILE))
    with pytest.raises(GatewayError, match="line 3 is wrong"):
        write_configuration(invalid, output, find_errors)
    assert "/other.pem" in checked[0]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_default_answer_time_covers_the_longest_answer_at_20_tokens_a_second():
    thresholds = Release.open(DEFAULT_RELEASE_DIR).manifest.thresholds
    assert thresholds.max_tokens / 20 <= Limits().max_answer_s


def test_metadata_is_exposed_only_on_request():
    closed, opened = (
        GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", allow_metadata=allow).render()
        for allow in (False, True)
    )
    for name in ("/v2/models/ensemble ", "/v2/models/ensemble_stream\n", "ModelMetadata"):
        assert name not in closed
    assert "/v2/models/ensemble /v2/models/ensemble_stream\n" in opened
    assert "/inference.GRPCInferenceService/ModelMetadata" in opened


def test_the_streaming_model_has_no_infer():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua").render()
    paths, _ = re.findall(r"acl is_post_path .*", text)
    assert "/v2/models/ensemble_stream/generate " in paths
    assert paths.endswith("/v2/models/ensemble_stream/generate_stream")
    assert "ensemble_stream/infer" not in text


def test_behind_a_load_balancer_limits_apply_to_the_address_in_the_proxy_protocol():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", accept_proxy=True).render()
    assert len(re.findall("^    bind .* accept-proxy", text, re.MULTILINE)) == 3
    assert "tcp-request connection" not in text


def test_requests_in_flight_are_limited_by_client_address_for_both_protocols():
    limits = Limits(max_client_in_flight=7, abandoned_s=11)
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", limits=limits).render()
    assert text.count("http-request track-sc2 src,ipmask(32,64) table in_flight") == 2
    assert text.count("add(txn.num_waiting) gt 7\n") == 2
    assert len(re.findall(r"filter lua\.guard (?:http|grpc) \d+ \d+ 7\n", text)) == 2
    assert "gpc_rate(3,11s)\n" in text


def test_one_client_can_not_fill_the_queue_of_a_server():
    engine = Release.open(DEFAULT_RELEASE_DIR).manifest.engine
    assert Limits().max_client_in_flight <= engine.max_queue_size // 2


def test_two_gateways_on_one_machine_have_different_internal_sockets():
    one, other = (GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", http_port=port) for port in (1, 2))
    assert one.socket_prefix != other.socket_prefix


def test_without_grpc_nothing_listens_for_it():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", exposes_grpc=False).render()
    assert ":8444" not in text
    assert "proto h2 track" not in text
    assert "frontend http\n" in text
    assert "frontend metrics\n" in text


def section(text: str, head: str) -> str:
    """The lines of one section of a configuration."""
    return text.split(f"\n{head}\n", 1)[1].split("\n\n", 1)[0]


def test_the_openai_api_is_that_of_the_backends_and_as_ready_as_they_are():
    backends = [*TWO, Backend("triton-3", 1, 2, 3, 4)]
    openai = section(GatewayConfiguration(backends, "/gateway.pem", "/guard.lua").render(), "backend openai")
    for number, address in enumerate(("triton-1:8005", "[::1]:8005", "triton-3:4"), 1):
        assert f"server s{number} {address} track triton_http/s{number}" in openai


def test_openai_servers_elsewhere_have_health_checks_of_their_own():
    servers = [Address("openai-1", 8005), Address("[::1]", 9)]
    openai = section(
        GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", openai_servers=servers).render(), "backend openai"
    )
    assert "server o1 openai-1:8005\n" in openai
    assert openai.endswith("server o2 [::1]:9")
    assert "http-check send meth GET uri /healthz\n" in openai
    assert "default-server check" in openai
    assert "triton" not in openai


def test_without_the_openai_api_nothing_of_it_is_left():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua", exposes_openai=False).render()
    assert "openai" not in text
    assert "/v1/" not in text
    assert "http-request wait-for-body time 20s if is_post\n" in text


def test_every_rejection_of_the_openai_api_has_its_form_and_comes_before_the_other():
    text = GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua").render()
    http = section(text, "frontend http") + text.split("\nfrontend http\n")[1].split("\nbackend triton_http\n")[0]
    denials = re.findall(r"http-request deny status (\d+) .*", http.split("\n\n", 1)[1])
    lines = re.findall(r"    http-request deny .*", http.split("\n\n", 1)[1])
    assert denials
    assert denials[::2] == denials[1::2]
    for own, other in zip(lines[::2], lines[1::2], strict=True):
        assert own.endswith(" if is_openai { var(txn.reason) -m found }")
        assert other.endswith("' if { var(txn.reason) -m found }")
        (document,) = re.findall(r"lf-string '([^']*)'", own)
        (plain,) = re.findall(r" string '([^']*)'", other)
        error = json.loads(document)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert json.loads(plain)["error"] == f"{error['code']}: {error['message']}"


@pytest.mark.parametrize("head", ["backend openai", "backend upload_openai"])
def test_the_gateways_own_errors_have_openais_form(head):
    openai = section(GatewayConfiguration(TWO, "/gateway.pem", "/guard.lua").render(), head)
    errors = re.findall(r"http-error status (\d+) content-type application/json lf-string '([^']*)' (.*)", openai)
    assert [status for status, _, _ in errors] == ["400", "408", "500", "502", "503", "504"]
    for status, document, headers in errors:
        error = json.loads(document)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == ("server_error" if status >= "500" else "invalid_request_error")
        assert ("hdr retry-after 1" in headers) == ("hdr x-should-retry true" in headers)
        assert ("retry-after" in headers) == (status in {"408", "502", "503"})


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/v1/models/ensemble", True),
        ("/v1/models/qwen3-32b:judge", True),
        ("/v1/models/Qwen%2FQwen3-32B%3Ajudge", True),
        ("/v1/models/", False),
        ("/v1/models/a?b=c", False),
        ("/v1/models/%2e%2e", False),
        ("/v1/models/a b", False),
        ("/v1/models/" + "a" * 257, False),
        ("/v2/v1/models/a", False),
    ],
)
def test_the_path_of_a_model_has_its_name_only(path, is_allowed):
    assert bool(re.search(OPENAI_MODEL_PATH, path)) == is_allowed
