"""One live service for all clients, and what runs a client's script with the Python of its environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmstack.demo.cases import TASK_PROMPTS
from tests.clients.openai_service import base_url, model_name, serve_openai
from tests.integration.live_service import LiveService

ROOT = Path(__file__).parents[2]
CLIENT_TIMEOUT_S = 240.0
ANSWERS = {prompt.task: prompt.answer for prompt in TASK_PROMPTS}
RunClient = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def openai_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with serve_openai(tmp_path_factory.mktemp("clients")) as live:
        yield live


@pytest.fixture(scope="session")
def run_client(request: pytest.FixtureRequest) -> RunClient:
    """Runs a client's script and returns the result of each exercise. Skips without the client's environment."""

    def run(script: str, environment: str) -> dict[str, Any]:
        python = ROOT / "build" / environment / "bin" / "python"
        if not python.exists():
            pytest.skip(f"build/{environment} is missing; `make test-clients` makes it")
        service: LiveService = request.getfixturevalue("openai_service")
        return _run(python, script, service)

    return run


def _run(python: Path, script: str, service: LiveService) -> dict[str, Any]:
    target = {
        "base_url": base_url(service),
        "headers": service.headers,
        "model": model_name(service),
        "prompts": {prompt.task: [prompt.system, prompt.user] for prompt in TASK_PROMPTS},
    }
    command = [str(python), "-m", f"tests.clients.{script}"]
    # A client must read nothing but what it is given.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LANG"))}
    done = subprocess.run(
        command,
        input=json.dumps(target),
        cwd=ROOT,
        env={**environment, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
