"""A fake ensemble, and the embedded release as the target of a check against it."""

from threading import Thread

import pytest

from llm_policy.release.release import Release
from llmstack.client.ensemble_client import ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks.target import Target
from tests.unit.release.checks.fake_ensemble import EnsembleServer


@pytest.fixture
def ensemble():
    with EnsembleServer() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def target(ensemble):
    return Target(Release.open(DEFAULT_RELEASE_DIR), ServerUrls(f"http://127.0.0.1:{ensemble.server_port}"), "")
