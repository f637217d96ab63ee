"""API keys on the wire: a valid key names its tenant over every protocol; nobody passes for another; no key is kept."""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llm_policy.api_key import create_key, digest_of
from llm_policy.ledger.database import open_database
from llm_policy.release.release import Release
from llm_policy.rules.headers import CANARY_TENANT, CANARY_TOKEN
from llmstack.client.ensemble_client import PROTOCOLS as CLIENTS
from llmstack.client.ensemble_client import ServerUrls, release_headers
from llmstack.client.stream_client import send_stream
from tests.integration.identity_attacks import API_KEY, AUTHORIZATION, PROTOCOLS, TENANT, Attack
from tests.integration.live_service import LiveService, wait_until
from tests.integration.trace_collector import TraceCollector
from tests.tenants import add_tenant

pytestmark = [pytest.mark.server, pytest.mark.slow]

VICTIM, OTHER = "acme", "mallory"
MISSING, INVALID, FORBIDDEN, HEADER = "missing_api_key", "invalid_api_key", "tenant_forbidden", "invalid_header"
UNKNOWN = "invalid_input"  # as a parameter in the body, which is rejected before anybody asks for a key
BODIES = ("generate", "generate_stream")
NATIVE = ("infer", *BODIES, "grpc", "grpc_stream")
HTTP_1 = ("infer", *BODIES, "openai")
TRACE_ID, LAST_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
# Triton answers its client with the model's name and the id that it sent, and its own spans have the id. The gateway
# rejects a key there.
ECHOED_BY_TRITON = {(name, each) for name in ("the key as model", "the key as the request's id") for each in NATIVE}
REQUEST_ID = re.compile(r'"triton\.request_id",\s*"value":\s*\{"stringValue":\s*"[^"]*"')


@dataclass
class Scene:
    """A service with two tenants; `words` are what braces in an attack stand for."""

    service: LiveService
    words: dict[str, str]
    traces: TraceCollector

    def fill(self, text: str) -> str:
        for name, word in self.words.items():
            text = text.replace(f"{{{name}}}", word)
        return text

    def send(self, attack: Attack, protocol: str) -> Any:
        return PROTOCOLS[protocol](self.service, attack.filled(self.fill))

    def rows_of(self, tenant: str) -> list[tuple[Any, ...]]:
        """Everything that the ledger says of a tenant, as counts."""
        tables = ("request", "usage_day", "refusal_day", "tenant_day", "tenant_second")
        counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table} WHERE tenant = :name" for table in tables)
        with closing(open_database(self.service.state_dir / "ledger.db", must_exist=True)) as connection:
            return connection.execute(counts, {"name": tenant}).fetchall()


def words_of(service: LiveService) -> dict[str, str]:
    """Two tenants in the service's ledger, with keys that are valid and keys that are not any more."""
    with closing(open_database(service.state_dir / "ledger.db", must_exist=True)) as connection:
        keys = {name: add_tenant(connection, VICTIM) for name in ("revoked", "rotated", "acme")}
        for name in ("revoked", "rotated"):
            ended = (time.time_ns(), digest_of(keys[name]))
            connection.execute("UPDATE tenant_key SET ends_ns = ? WHERE digest = ?", ended)
        keys["mallory"] = add_tenant(connection, OTHER)
    key = keys["acme"]
    return {
        **keys,
        "unknown": create_key(),
        "changed": key[:20] + ("A" if key[20] != "A" else "B") + key[21:],
        "upper": key.upper(),
        "prefix": key[:4].upper() + key[4:],
        "short": key[:-1],
        "gap": f"{key[:25]} {key[25:]}",
        "homoglyph": key.replace("lsk_", "lѕk_"),
        "basic": b64encode(f"{VICTIM}:{key}".encode()).decode(),
        "digest": hashlib.sha256(key.encode()).hexdigest(),
        "padded_digest": f"lsk_{hashlib.sha256(key.encode()).hexdigest()[:43]}",
        "long": key * 150,
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A service that requires keys, with the OpenAI API and traces of every request."""
    with TraceCollector() as traces:
        environment = {"LLMSTACK_REQUIRE_API_KEYS": "1", "LLMSTACK_TRACE_URL": traces.url}
        directory = tmp_path_factory.mktemp("keys")
        with LiveService(directory, environment=environment, serves_openai=True) as service:
            yield Scene(service, words_of(service), traces)


@pytest.fixture(scope="module")
def open_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A service on loopback, which requires no keys by default."""
    with LiveService(tmp_path_factory.mktemp("open"), serves_openai=True) as service:
        yield Scene(service, words_of(service), TraceCollector())


def bearer(key: str) -> tuple[str, str]:
    return (AUTHORIZATION, f"Bearer {key}")


ATTACKS = [
    Attack("no key", codes=(MISSING,)),
    Attack("empty X-Api-Key", [(API_KEY, "")], (MISSING, INVALID)),
    Attack("empty Authorization", [(AUTHORIZATION, "")], (MISSING,)),
    Attack("Bearer without a key", [(AUTHORIZATION, "Bearer")], (MISSING,)),
    Attack("Bearer and blanks", [(AUTHORIZATION, "Bearer   ")], (INVALID,), protocols=BODIES),
    Attack("the victim's name alone", [(TENANT, VICTIM)], (MISSING,)),
    Attack("the victim's name, own key", [(TENANT, VICTIM), bearer("{mallory}")], (FORBIDDEN,)),
    Attack("the victim's name in capitals, own key", [(TENANT, "ACME"), bearer("{mallory}")], (FORBIDDEN,)),
    Attack("own name, the victim's key", [(TENANT, OTHER), bearer("{acme}")], (FORBIDDEN,), victim=OTHER, has_key=True),
    Attack("a key that never was", [bearer("{unknown}")], (INVALID,)),
    Attack("a revoked key", [bearer("{revoked}")], (INVALID,)),
    Attack("a key that was rotated out", [(API_KEY, "{rotated}")], (INVALID,)),
    Attack("a changed character", [bearer("{changed}")], (INVALID,)),
    Attack("the key in capitals", [bearer("{upper}")], (INVALID,)),
    Attack("the prefix in capitals", [(API_KEY, "{prefix}")], (INVALID,)),
    Attack("a blank inside", [(API_KEY, "{gap}")], (INVALID,)),
    Attack("a homoglyph", [(API_KEY, "{homoglyph}")], (INVALID, HEADER), protocols=HTTP_1),
    Attack("a truncated key", [bearer("{short}")], (INVALID,)),
    Attack("a doubled key", [bearer("{acme}{acme}")], (INVALID,)),
    Attack("two keys in one header", [(API_KEY, "{acme}, {acme}")], (INVALID,)),
    Attack("a key of many kilobytes", [(API_KEY, "{long}")], (INVALID, MISSING, "")),
    Attack("the key as a scheme", [(AUTHORIZATION, "{acme}")], (MISSING,)),
    Attack("the key under Basic", [(AUTHORIZATION, "Basic {acme}")], (MISSING,)),
    Attack("name and key under Basic", [(AUTHORIZATION, "Basic {basic}")], (MISSING,)),
    Attack("the key in X-Tenant", [(TENANT, "{acme}")], (HEADER,)),
    Attack("the key in X-Request-Id", [("X-Request-Id", "{acme}")], (HEADER,)),
    Attack("the key in X-Engine-Hash", [("X-Engine-Hash", "{acme}")], (HEADER,)),
    Attack("the key in X-Quantisation", [("X-Quantisation", "{acme}")], (HEADER,)),
    Attack("the key in traceparent", [("traceparent", "{acme}")], (MISSING,)),
    Attack("the key after a valid traceparent", [("traceparent", f"00-{TRACE_ID}-{'1' * 16}-01-{{acme}}")], (MISSING,)),
    Attack("the key as the request's id", request_id="{acme}", codes=(MISSING,), protocols=NATIVE),
    Attack("the key as task", inputs={"task": "{acme}"}, codes=(MISSING,), protocols=NATIVE),
    Attack("the key as schema", inputs={"schema_id": "{acme}"}, codes=(MISSING,), protocols=NATIVE),
    Attack("the key in the prompt", inputs={"text_input": "X-Api-Key: {acme}"}, codes=(MISSING,)),
    Attack("the key as model", codes=("", MISSING, "invalid_input"), model="{acme}"),
    Attack("the key in the query", codes=(MISSING, ""), query="?X-Api-Key={acme}", protocols=HTTP_1),
    Attack("the key as a header's name", [("{acme}", "1")], (MISSING, UNKNOWN), protocols=HTTP_1),
    Attack(
        "the key as a member's name", inputs={"{acme}": "1"}, codes=(MISSING, UNKNOWN), protocols=(*BODIES, "openai")
    ),
    Attack("the key as role", inputs={"messages": "[{\"role\": \"{acme}\"}]"}, codes=(MISSING,), protocols=NATIVE),
    Attack("the key in other systems' headers", [("Api-Key", "{acme}"), ("Cookie", "key={acme}")], (MISSING, UNKNOWN)),
    Attack("the key in two places", [bearer("{acme}"), (API_KEY, "{acme}")], (INVALID,)),
    Attack("two keys in two places", [bearer("{mallory}"), (API_KEY, "{acme}")], (INVALID,)),
    Attack("another system's token beside a revoked key", [bearer("sk-1"), (API_KEY, "{revoked}")], (INVALID,)),
    Attack("Authorization twice", [bearer("{mallory}"), bearer("{acme}")], (INVALID,)),
    Attack("X-Api-Key twice, in two spellings", [(API_KEY, "{acme}"), ("X-API-KEY", "{acme}")], (INVALID,)),
    Attack("a header and a parameter", [bearer("{mallory}")], (INVALID,), protocols=("infer", "grpc"),
           parameters=[(API_KEY, "{acme}")]),
    Attack("a header that is not forwarded", codes=(MISSING,), protocols=BODIES, real_headers=[bearer("{acme}")]),
    Attack("a valid header, an invalid member", [bearer("{revoked}")], (INVALID,), protocols=BODIES,
           real_headers=[bearer("{acme}")]),
    Attack("a member that is no text", [(API_KEY, True)], (INVALID,), protocols=BODIES),
    Attack("a line break after the key", [(API_KEY, f"{{acme}}\n{TENANT}: {VICTIM}")], (INVALID,), protocols=BODIES),
    Attack("SQL as tenant", [(TENANT, "acme' OR '1'='1"), bearer("{mallory}")], (FORBIDDEN,)),
    Attack("SQL as tenant without a key", [(TENANT, "'; DROP TABLE tenant; --")], (MISSING,)),
    Attack("SQL as key", [(API_KEY, "lsk_' OR 1=1 UNION SELECT digest FROM tenant --")], (INVALID,)),
    Attack("the canary's name", [(TENANT, CANARY_TENANT)], (HEADER,)),
    Attack("the canary's name, own key", [(TENANT, CANARY_TENANT), bearer("{mallory}")], (HEADER,)),
    Attack("an empty canary token", [(CANARY_TOKEN, "")], (HEADER, MISSING)),
    Attack("a guessed canary token", [(CANARY_TOKEN, "A" * 43), (TENANT, CANARY_TENANT)], (HEADER,)),
    Attack("the key as canary token", [(CANARY_TOKEN, "{acme}")], (HEADER, MISSING)),
    Attack("the digest", [(API_KEY, "{digest}")], (INVALID,)),
    Attack("the digest in the form of a key", [bearer("{padded_digest}")], (INVALID,)),
]  # fmt: skip
VALID = Attack("valid", [bearer("{acme}")])
OPEN_ATTACKS = [
    Attack("the victim's name", [(TENANT, VICTIM)], (MISSING,)),
    Attack("the victim's name, another system's token", [(TENANT, VICTIM), bearer("sk-1234")], (MISSING,)),
    Attack("the victim's name, own key", [(TENANT, VICTIM), bearer("{mallory}")], (FORBIDDEN,)),
    Attack("a revoked key", [bearer("{revoked}")], (INVALID,)),
    Attack("a changed character", [(API_KEY, "{changed}")], (INVALID,)),
    Attack("the victim's key under another name", [(TENANT, "label"), bearer("{acme}")], (FORBIDDEN,), victim="label"),
    Attack("two keys", [bearer("{mallory}"), (API_KEY, "{acme}")], (INVALID,)),
    Attack("the key as a label", [(TENANT, "{acme}")], (HEADER,)),
    Attack("the canary's name", [(TENANT, CANARY_TENANT)], (HEADER,)),
]


def ids(attack: Attack) -> str:
    return attack.name


@pytest.mark.parametrize("header", [bearer("{acme}"), (API_KEY, "{acme}"), (AUTHORIZATION, "bEARER  {acme}")], ids=str)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_valid_key_names_the_tenant_over_every_protocol(scene, protocol, header):
    request_id = f"valid-{protocol}-{time.time_ns()}"
    outcome = scene.send(Attack("valid", [header, ("X-Request-Id", request_id)]), protocol)
    assert outcome.is_ok, outcome.text
    rows = scene.service.rows("SELECT tenant, state FROM request WHERE request_id = ?", request_id)
    assert rows == [(VICTIM, "settled")]


def test_no_release_or_canary_needs_a_key(scene):
    document = scene.service.readiness()
    assert (document["ready"], document["api_keys_required"]) == (True, True)


@pytest.mark.parametrize("protocol", [*CLIENTS, "stream"])
def test_our_clients_send_a_key_with_their_headers(scene, protocol):
    send = {**CLIENTS, "stream": send_stream}[protocol]
    service = scene.service
    headers = release_headers(Release.open(service.release_dir), scene.words["acme"])
    reply = send(ServerUrls(service.http_url, service.grpc_url), {"text_input": "hello", "max_tokens": 4}, headers)
    assert reply.error == ""


def test_smoke_and_warmup_say_that_a_service_requires_keys(scene):
    for command in ("smoke", "warmup"):
        urls = ("--http-url", scene.service.http_url, "--ready-url", scene.service.ready_url)
        done = scene.service.llmstack(command, "--release", str(scene.service.release_dir), *urls)
        assert done.returncode == 2
        assert "requires API keys" in done.stderr
        assert "LLMSTACK_API_KEY" in done.stderr


@pytest.mark.parametrize("attack", ATTACKS, ids=ids)
def test_nobody_passes_for_another(scene, attack):
    check(scene, attack)


@pytest.mark.parametrize("attack", OPEN_ATTACKS, ids=ids)
def test_the_name_of_a_tenant_needs_its_key_where_keys_are_not_required(open_scene, attack):
    check(open_scene, attack)


@pytest.mark.parametrize("attack", [each for each in ATTACKS if not each.has_key], ids=ids)
def test_nobody_reads_the_usage_of_another(scene, attack):
    service, given = scene.service, attack.filled(scene.fill)
    headers = [(name.encode(), str(value).encode()) for name, value in given.headers]
    for url in (f"http://127.0.0.1:{service.openai_port}/v1/usage", service.ready_url.replace("/readyz", "/usage")):
        try:
            answer = httpx.get(url + given.query, headers=headers, timeout=10)
        except (httpx.RemoteProtocolError, httpx.LocalProtocolError):  # no HTTP
            continue
        assert answer.status_code != 200 or VICTIM not in answer.text, (url, answer.text)
        assert not any(part in answer.text for part in parts_of_keys(scene))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_revoked_key_ends_with_the_next_request(scene, protocol):
    with closing(open_database(scene.service.state_dir / "ledger.db", must_exist=True)) as connection:
        key = add_tenant(connection, f"short-lived-{protocol}")
        attack = Attack("revoked", [bearer(key)])
        assert scene.send(attack, protocol).is_ok
        connection.execute("UPDATE tenant_key SET ends_ns = ? WHERE digest = ?", (time.time_ns(), digest_of(key)))
    assert scene.send(attack, protocol).code == INVALID


def check(scene: Scene, attack: Attack) -> None:
    """Every protocol answers with a declared code, and the ledger does not name the victim."""
    before = scene.rows_of(attack.victim)
    for protocol in attack.protocols or PROTOCOLS:
        outcome = scene.send(attack, protocol)
        assert not outcome.is_ok, (protocol, outcome.text)
        assert outcome.code in attack.codes, (protocol, outcome)
    assert scene.rows_of(attack.victim) == before


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_systems_token_is_ignored_where_keys_are_not_required(open_scene, protocol):
    outcome = open_scene.send(Attack("label", [bearer("sk-1234"), (TENANT, "a-label")]), protocol)
    assert outcome.is_ok, outcome.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_counts_where_keys_are_not_required(open_scene, protocol):
    request_id = f"key-{protocol}"
    outcome = open_scene.send(Attack("valid", [bearer("{mallory}"), ("X-Request-Id", request_id)]), protocol)
    assert outcome.is_ok, outcome.text
    assert open_scene.service.rows("SELECT tenant FROM request WHERE request_id = ?", request_id) == [(OTHER,)]


def test_no_key_is_left_in_any_file_page_answer_trace_or_in_the_engine(scene):
    last = Attack("valid", [bearer("{acme}"), ("traceparent", f"00-{LAST_TRACE_ID}-{'1' * 16}-01")])
    answers = {
        (attack.name, protocol): scene.send(attack, protocol).text
        for attack in (*ATTACKS, Attack("valid too", [(API_KEY, "{mallory}")]), last)
        for protocol in attack.protocols or PROTOCOLS
    }
    service = scene.service
    for url in (service.ready_url, service.metrics_url):
        answers[url, "HTTP"] = httpx.get(url, params={"api_key": scene.words["acme"]}, timeout=10).text
    wait_until(lambda: scene.traces.spans(LAST_TRACE_ID) != [])

    assert {where for where in where_keys_are(scene, answers) if where not in ECHOED_BY_TRITON} == set()
    files = {str(path): path.read_bytes().decode("latin-1") for path in files_of(service)}
    assert any(name.endswith("ledger.db-wal") for name in files)
    assert where_keys_are(scene, files) == set()
    spans = [REQUEST_ID.sub("", body.decode()) for body in scene.traces.bodies]
    assert where_keys_are(scene, dict(enumerate(spans))) == set()
    engine = service.readiness()["engine_process"]["pid"]
    assert memory_holds(engine, [part.encode() for part in parts_of_keys(scene)]) == []


def parts_of_keys(scene: Scene) -> list[str]:
    """Of each key, what would also be left of one that was cut."""
    return [scene.words[name][8:30] for name in ("acme", "mallory", "revoked", "rotated", "unknown")]


def where_keys_are(scene: Scene, texts: dict[Any, str]) -> set[Any]:
    return {where for where, text in texts.items() if any(part in text for part in parts_of_keys(scene))}


def files_of(service: LiveService) -> list[Path]:
    directory = service.state_dir.parent
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and "release" not in path.parts
    ]


def memory_holds(pid: int, texts: list[bytes]) -> list[bytes]:
    """Which of the texts the process has in its own memory."""
    found = set()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, access, *_ = line.split()
            if not access.startswith("rw"):
                continue
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:  # the kernel's own, or gone meanwhile
                continue
            found |= {text for text in texts if text in content}
    return sorted(found)


def test_the_search_of_a_process_finds_what_it_has(scene):
    openai = scene.service.readiness()["openai"]["pid"]
    assert memory_holds(openai, [b"inference.GRPCInferenceService"]) != []


def test_no_process_that_sees_keys_may_leave_a_core_file(scene):
    parent = psutil.Process(scene.service.process.pid)
    processes = [parent, *parent.children(recursive=True)]
    assert {"tritonserver", "triton_python_backend_stub"} <= {process.name() for process in processes}
    for process in processes:
        (line,) = [x for x in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "core file" in x]
        assert line.split()[4] in ("0", "1"), (process.cmdline(), line)


def test_keys_are_still_required_after_the_server_was_restarted(scene):
    service = scene.service
    before = service.readiness()["restarts"]
    service.triton().kill()

    def answers_again() -> bool:
        with suppress(httpx.HTTPError):  # on a busy machine it may be restarted twice
            return service.readiness()["restarts"] > before and scene.send(VALID, "infer").is_ok
        return False

    wait_until(answers_again, 120, service.output)
    assert service.readiness()["api_keys_required"] is True
    assert scene.send(Attack("no key"), "infer").code == MISSING
    assert scene.send(VALID, "grpc_stream").is_ok
