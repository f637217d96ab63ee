"""Releases that go wrong in their own ways, on the real server: each is left by itself, or at once when asked."""

import json
from collections.abc import Iterator

import pytest

from embedded_model.release.schemas import SCHEMAS
from llm_policy.release.manifest import TASKS
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, ReleaseService, faulty_models
from tests.soak import ONLY_IN_SOAK

pytestmark = pytest.mark.server

OVERRIDE = ("--override", "test", "--required-sign-offs", "0")
MAX_ROLLBACK_S = 60
NUM_WARM_UPS = 1 + len(TASKS) + len(SCHEMAS)  # for the engine's hash, tasks and schemas: the canary comes next


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
    asking = service.llmstack_in_background("release", "promote", "hanging", *OVERRIDE)
    wait_until(lambda: newest(service).get("step") == "start")
    back = service.llmstack("release", "rollback", "--root-cause", "it hangs", "--json")
    assert back.returncode == 0, back.stderr
    told = json.loads(back.stdout)
    assert (told["from"], told["to"], told["outcome"], told["is_served"]) == ("hanging", FIRST, "completed", True)
    assert told["duration_s"] < MAX_ROLLBACK_S
    assert asking.wait(timeout=60) == 1
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
def test_a_release_that_starts_and_fails_its_proof_is_taken_back_by_itself(
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
