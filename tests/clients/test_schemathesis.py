"""schemathesis generates requests from the live service's own OpenAPI document and checks each answer against it."""

import json
import os
import subprocess

import httpx
import pytest

from tests.clients.conftest import ROOT
from tests.clients.openai_service import base_url, model_name

# Each endpoint's cases with borders and faults are some hundred; this many random ones of each path are added.
RANDOM_CASES = int(os.environ.get("LLMSTACK_API_CASES", "40"))
PROGRAM = ROOT / "build" / "venv-clients" / "bin" / "schemathesis"
HOOKS = "tests.clients.schemathesis_hooks"
TIMEOUT_S = 580.0
# A schema can't say all that the policy refuses, so a request of the right form may be refused.
UNCHECKED = "positive_data_acceptance"


@pytest.fixture(scope="module")
def report(request, tmp_path_factory):
    if not PROGRAM.exists():
        pytest.skip("build/venv-clients is missing; `make test-clients` makes it")
    service = request.getfixturevalue("openai_service")
    path = tmp_path_factory.mktemp("schemathesis") / "report.ndjson"
    url = base_url(service).removesuffix("/v1")
    headers = [word for name, value in service.headers.items() for word in ("--header", f"{name}: {value}")]
    done = subprocess.run(
        [
            *(str(PROGRAM), "run", f"{url}/openapi.json", *headers, "--phases", "coverage,fuzzing"),
            *("--max-examples", str(RANDOM_CASES), "--seed", "1", "--exclude-checks", UNCHECKED),
            *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all"),
            *("--report-ndjson-path", str(path)),
        ],
        cwd=path.parent,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": HOOKS,
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "MODEL_NAME": model_name(service),
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    print(done.stdout)
    return done, list(responses([json.loads(line) for line in path.read_text().splitlines()]))


def responses(tree):
    """Every response in the report, with its status code and headers."""
    if isinstance(tree, dict) and "status_code" in tree:
        yield tree
    elif isinstance(tree, dict):
        yield from responses(list(tree.values()))
    elif isinstance(tree, list):
        for branch in tree:
            yield from responses(branch)


def test_no_generated_request_finds_a_fault(report):
    done, _ = report
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_requests_are_answered_refused_and_streamed(report):
    _, answers = report
    assert len(answers) > 800
    statuses = [answer["status_code"] for answer in answers]
    assert {200, 400, 404, 405} <= set(statuses) <= {200, 400, 404, 405, 413, 429}
    assert statuses.count(200) > 100
    kinds = [answer["headers"]["content-type"][0].split(";")[0] for answer in answers]
    assert set(kinds) == {"application/json", "text/event-stream"}
    assert kinds.count("text/event-stream") > 30


def test_the_service_is_ready_after_all_requests(report, openai_service):
    assert openai_service.is_ready()
    assert httpx.get(base_url(openai_service).removesuffix("/v1") + "/healthz", timeout=10).status_code == 200
