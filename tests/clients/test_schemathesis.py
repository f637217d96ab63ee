"""schemathesis generates requests and checks the live service's answers, from two OpenAPI documents.

One is the service's own, the other is made from the official SDK's forms, so that it is OpenAI's.
"""

import json
import os
import subprocess

import httpx
import pytest

from tests.clients.conftest import ROOT
from tests.clients.openai_service import base_url, model_name
from tests.clients.sdk_document import make_sdk_document

# Each endpoint's cases with borders and faults are some hundred; this many random ones of each path are added.
RANDOM_CASES = int(os.environ.get("LLMSTACK_API_CASES", "40"))
PROGRAM = ROOT / "build" / "venv-clients" / "bin" / "schemathesis"
HOOKS = "tests.clients.schemathesis_hooks"
TIMEOUT_S = 580.0
# A schema can't say all that the policy refuses, so a request of the right form may be refused.
UNCHECKED = "positive_data_acceptance"
# OpenAI's forms say nothing about other methods, and the API ignores members that are wrong for features it lacks.
UNCHECKED_OF_SDK = f"{UNCHECKED},negative_data_rejection,unsupported_method"


@pytest.fixture(scope="module")
def generate(request, tmp_path_factory):
    """Runs schemathesis on a document, an address or a file. Returns what it prints and the responses."""
    if not PROGRAM.exists():
        pytest.skip("build/venv-clients is missing; `make test-clients` makes it")
    service = request.getfixturevalue("openai_service")
    headers = [word for name, value in service.headers.items() for word in ("--header", f"{name}: {value}")]
    own = {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "MODEL_NAME": model_name(service)}

    def run(document, unchecked):
        path = tmp_path_factory.mktemp("schemathesis") / "report.ndjson"
        done = subprocess.run(
            [
                *(str(PROGRAM), "run", document, "--url", address(service), *headers, "--phases", "coverage,fuzzing"),
                *("--max-examples", str(RANDOM_CASES), "--seed", "1", "--exclude-checks", unchecked),
                *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all"),
                *("--report-ndjson-path", str(path)),
            ],
            cwd=path.parent,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        print(done.stdout)
        return done, list(responses([json.loads(line) for line in path.read_text().splitlines()]))

    return run


@pytest.fixture(scope="module")
def own_report(generate, openai_service):
    return generate(f"{address(openai_service)}/openapi.json", UNCHECKED)


@pytest.fixture(scope="module")
def sdk_report(generate, tmp_path_factory):
    path = tmp_path_factory.mktemp("sdk") / "openai.json"
    path.write_text(json.dumps(make_sdk_document()))
    return generate(str(path), UNCHECKED_OF_SDK)


def address(service):
    return base_url(service).removesuffix("/v1")


def responses(tree):
    """Every response in the report, with its status code and headers."""
    if isinstance(tree, dict) and "status_code" in tree:
        yield tree
    elif isinstance(tree, dict):
        yield from responses(list(tree.values()))
    elif isinstance(tree, list):
        for branch in tree:
            yield from responses(branch)


@pytest.mark.parametrize("report", ["own_report", "sdk_report"])
def test_no_generated_request_finds_a_fault(request, report):
    done, answers = request.getfixturevalue(report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(answers) > 800


@pytest.mark.parametrize("report", ["own_report", "sdk_report"])
def test_the_generated_requests_are_answered_refused_and_streamed(request, report):
    _, answers = request.getfixturevalue(report)
    statuses = [answer["status_code"] for answer in answers]
    assert {200, 400, 405} <= set(statuses) <= {200, 400, 401, 404, 405, 413, 429}
    assert statuses.count(200) > 100
    kinds = [answer["headers"]["content-type"][0].split(";")[0] for answer in answers]
    assert set(kinds) == {"application/json", "text/event-stream"}
    assert kinds.count("text/event-stream") > 30


def test_the_service_is_ready_after_all_requests(own_report, sdk_report, openai_service):
    assert openai_service.is_ready()
    assert httpx.get(f"{address(openai_service)}/healthz", timeout=10).status_code == 200
