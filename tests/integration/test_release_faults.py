"""Faulty releases on the real server: each is taken back automatically, or immediately on request."""

import json
from collections.abc import Iterator

import pytest

from embedded_model.release.schemas import SCHEMAS
from llm_policy.release.manifest import TASKS
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, ReleaseService, faulty_models
from tests.soak import ONLY_IN_SOAK

pytestmark = [pytest.mark.server, pytest.mark.slow]

OVERRIDE = ("--override", "test", "--required-sign-offs", "0")
NUM_WARM_UPS = 1 + len(TASKS) + len(SCHEMAS)  # the engine's hash, tasks and schemas; the canary comes next


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseService]:
    directory = tmp_path_factory.mktemp("faults")
    models = faulty_models(directory / "models")
    with ReleaseService(directory / "service", "echo", {"LLMSTACK_MODEL_REPOSITORY": str(models)}) as live:
        yield live


def newest(service: ReleaseService, number: int = 0) -> dict:
    """The newest change, or the one `number` before it; empty when there is none yet."""
    changes = json.loads(service.llmstack("release", "history", "--json").stdout)
    return changes[number] if number < len(changes) else {}


def test_a_rollback_does_not_wait_for_a_promotion_whose_engine_hangs_at_its_start(service: ReleaseService) -> None:
    service.add_release("hanging", "hangs")
    promotion_command = service.llmstack_in_background("release", "promote", "hanging", *OVERRIDE)
    wait_until(lambda: newest(service).get("step") == "start")
    rollback = service.llmstack("release", "rollback", "--root-cause", "it hangs", "--json")
    assert rollback.returncode == 0, rollback.stderr
    change = json.loads(rollback.stdout)
    assert (change["from"], change["to"]) == ("hanging", FIRST)
    assert (change["outcome"], change["is_served"]) == ("completed", True)
    assert promotion_command.wait(timeout=60) == 1
    promotion = newest(service, 1)
    assert (promotion["outcome"], promotion["detail"]) == ("undone", "taken back by a rollback: it hangs")
    assert (service.in_service(), service.served(), service.is_ready()) == (FIRST, FIRST, True)


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        pytest.param(
            "silent", "silent", "warming up the engine's hash failed: the engine returned no token", marks=ONLY_IN_SOAK
        ),
        ("exhausted", f"fails_after {NUM_WARM_UPS}", "the canary failed: "),
    ],
)
def test_a_release_that_starts_and_fails_its_health_check_is_taken_back_automatically(
    service: ReleaseService, name: str, fault: str, reason: str
) -> None:
    service.add_release(name, fault)
    failed = service.llmstack("release", "promote", name, *OVERRIDE)
    assert failed.returncode == 1
    assert f"{FIRST} is in service as before" in failed.stdout
    change = newest(service)
    assert change["outcome"] == "undone"
    assert change["detail"].startswith(reason)
    assert (service.in_service(), service.served(), service.is_ready()) == (FIRST, FIRST, True)
