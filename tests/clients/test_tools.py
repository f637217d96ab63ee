"""The commands of docs/tools.md for load generators, as they stand there, on a live service that requires API keys."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llmstack.bench.perf_analyzer import PerfAnalyzerError, find_perf_analyzer
from tests.clients.conftest import ROOT
from tests.clients.openai_service import serve_openai
from tests.integration.live_service import HOST, wait_until
from tests.markdown import blocks

PAGE = ROOT / "docs" / "tools.md"
TOOLS = ROOT / "build" / "venv-tools" / "bin"
TENANT = "tools"
TIMEOUT_S = 580.0
# The schema of a client has the name that the ledger gives it.
ORDER, PRODUCT = "order", "sha256:"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serve_openai(tmp_path_factory.mktemp("tools"), "--require-api-keys") as live:
        yield live


@pytest.fixture(scope="module")
def api_key(service):
    created = service.llmstack("tenant", "create", TENANT, "--json")
    assert created.returncode == 0, created.stderr
    return json.loads(created.stdout)["new_key"]["key"]


@pytest.fixture
def run_block(request, tmp_path):
    """Runs the block that calls a program; returns what it prints and the ledger's rows. Skips without the program."""

    def run(program, *needed):
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in (program, *needed):
            (programs / name).symlink_to(find(name))
        service, key = request.getfixturevalue("service"), request.getfixturevalue("api_key")
        query = "SELECT id, state, schema_id, request_id FROM request WHERE tenant = ?"
        before = service.rows(query, TENANT)
        (tmp_path / "build").mkdir()
        done = subprocess.run(
            ["bash", "-euc", on(service, block_of(program))],
            cwd=tmp_path,
            env={**os.environ, **variables(service, key), "PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [row for row in service.rows(query, TENANT) if row not in before]
        return done.stdout, rows

    return run


def find(program: str) -> Path:
    """The program's path, from the tools' environment, the system or, perf_analyzer, as the bench finds it."""
    if (TOOLS / program).exists():
        return TOOLS / program
    if program == "perf_analyzer":
        try:
            return Path(find_perf_analyzer())
        except PerfAnalyzerError as error:
            pytest.skip(str(error))
    if found := shutil.which(program):
        return Path(found)
    pytest.skip(f"{program} is missing; docs/tools.md says where it is from")


def block_of(program):
    (text,) = (
        block.text
        for block in blocks(PAGE)
        if block.language == "bash" and any(line.startswith(f"{program} ") for line in block.text.splitlines())
    )
    return text


def on(service, script):
    for port, here in (("8000", service.http_port), ("8001", service.grpc_port), ("8005", service.openai_port)):
        script = script.replace(f"localhost:{port}", f"{HOST}:{here}")
    return script


def variables(service, key):
    return {
        "HASH": service.headers["X-Engine-Hash"],
        "QUANTISATION": service.headers["X-Quantisation"],
        "KEY": key,
        "TOKENIZER": str(service.release_dir / "tokenizer"),
        # Nothing is downloaded: a name on Hugging Face in place of the path would fail.
        "HF_ENDPOINT": f"http://{HOST}:1",
        "COLUMNS": "120",
    }


def schemas(rows):
    """The guides of the settled rows; every other row is a failure."""
    assert {state for _, state, _, _ in rows} == {"settled"}
    return [schema_id[: len(PRODUCT)] if schema_id.startswith(PRODUCT) else schema_id for _, _, schema_id, _ in rows]


def test_perf_analyzer_measures_over_http_and_grpc(run_block):
    output, rows = run_block("perf_analyzer")
    assert output.count("Request count: 20") == 2
    assert set(schemas(rows)) == {ORDER}
    assert len(rows) >= 40


def test_genai_perf_measures_generate_kserve_and_streams_of_the_openai_api(run_block, tmp_path):
    _, rows = run_block("genai-perf", "perf_analyzer")
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("build/**/profile_export_genai_perf.json")]
    assert [report["request_count"]["avg"] for report in reports] == [10, 10, 10]
    assert all(report["output_token_throughput"]["avg"] > 0 for report in reports)
    assert ["inter_token_latency" in report for report in reports].count(True) == 2  # the streams
    found = schemas(rows)
    assert {name: found.count(name) >= 10 for name in set(found)} == {ORDER: True, PRODUCT: True, "": True}


def test_aiperf_measures_templates_and_streams_whose_request_ids_are_those_of_the_ledger(run_block, tmp_path):
    _, rows = run_block("aiperf")
    for form in ("template", "stream", "chat"):
        report = json.loads((tmp_path / f"build/aiperf/{form}/profile_export_aiperf.json").read_text())
        assert report["request_count"]["avg"] == 10
        assert report["output_token_throughput"]["avg"] > 0
        assert ("time_to_first_token" in report) == (form != "template")
    found = schemas(rows)
    assert {name: found.count(name) for name in set(found)} == {ORDER: 10, "": 10, PRODUCT: 10}
    lines = (tmp_path / "build/aiperf/chat/profile_export.jsonl").read_text().splitlines()
    measured = {json.loads(line)["metadata"]["x_request_id"] for line in lines}
    assert measured == {request_id for _, _, schema_id, request_id in rows if schema_id.startswith(PRODUCT)}


def test_wrk_measures_answers_and_the_requests_that_it_abandons_are_answered_too(run_block, service):
    output, _ = run_block("wrk")
    assert "Requests/sec" in output
    assert "Non-2xx" not in output
    states = "SELECT DISTINCT state FROM request WHERE tenant = ?"
    wait_until(lambda: service.rows(states, TENANT) == [("settled",)], explain=service.output)
