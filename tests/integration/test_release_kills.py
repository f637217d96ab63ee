"""kill -9 of whoever performs a promotion or a rollback, at each journalled step: the next command makes it right.

Each step takes a whole start of the server, so by default a few stand for all; LLMSTACK_SOAK=1 takes each.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_policy.ledger.outbox import READINESS
from llmstack.events.endpoint import secret_variable, url_variable
from llmstack.release import journal as steps
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, SECOND, ReleaseService
from tests.soak import IS_SOAK, ONLY_IN_SOAK
from tests.webhook_receiver import WebhookReceiver, new_secret, write_secrets

pytestmark = pytest.mark.server

ALL = (*steps.BEFORE, *steps.PHASES)
OVERRIDE = ("--override", "test", "--required-sign-offs", "0")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseService]:
    live = ReleaseService(tmp_path_factory.mktemp("kills"), "echo")
    try:
        yield live
    finally:
        if live.process is not None:
            live.end()


def outcomes(service: ReleaseService) -> list[dict]:
    return json.loads(service.llmstack("release", "history", "--json").stdout)


@pytest.mark.parametrize("step", ALL if IS_SOAK else ("switch",))
def test_a_promotion_whose_parent_was_killed_is_settled_by_the_next_start(service: ReleaseService, step: str) -> None:
    service.killed_at = step
    service.start()
    service.wait_ready()
    asking = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE)
    service.die()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    asking.wait(timeout=60)
    expected = SECOND if step == "readiness_on" else FIRST
    assert (service.in_service(), service.served()) == (expected, expected)
    wait_until(lambda: outcomes(service)[0]["outcome"] == ("completed" if expected == SECOND else "undone"))
    if expected == SECOND:
        assert service.llmstack("release", "rollback", "--root-cause", "back").returncode == 0
    service.end()


@ONLY_IN_SOAK
@pytest.mark.parametrize("step", ALL)
def test_a_rollback_whose_parent_was_killed_goes_on_at_the_next_start(service: ReleaseService, step: str) -> None:
    service.start()
    service.wait_ready()
    assert service.llmstack("release", "promote", SECOND, *OVERRIDE).returncode == 0
    service.end()
    service.killed_at = step
    service.start()
    service.wait_ready()
    asking = service.llmstack_in_background("release", "rollback", "--root-cause", "killed")
    service.die()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    asking.wait(timeout=60)
    assert (service.in_service(), service.served()) == (FIRST, FIRST)
    wait_until(lambda: outcomes(service)[0]["outcome"] == "completed")
    assert outcomes(service)[0]["reason"] == "killed"
    service.end()


@ONLY_IN_SOAK
def test_a_promotion_whose_parent_was_killed_while_taking_it_back_is_taken_back(service: ReleaseService) -> None:
    service.killed_at = steps.UNDOING
    service.start()
    service.wait_ready()
    asking = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE, "--start-timeout-secs", "1")
    service.die()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    assert asking.wait(timeout=60) == 1
    wait_until(lambda: outcomes(service)[0]["outcome"] == "undone")
    assert outcomes(service)[0]["detail"] == "tritonserver is not ready after 1 s"
    assert (service.in_service(), service.served()) == (FIRST, FIRST)
    service.end()


@ONLY_IN_SOAK
@pytest.mark.parametrize("step", ALL)
def test_a_rollback_by_a_command_alone_that_was_killed_goes_on_with_the_next_command(
    service: ReleaseService, step: str
) -> None:
    assert service.llmstack("release", "promote", SECOND, *OVERRIDE).returncode == 0
    killed = service.llmstack("release", "rollback", "--root-cause", "killed", killed_at=step)
    assert killed.returncode == -signal.SIGKILL
    again = service.llmstack("release", "rollback", "--root-cause", "once more")
    assert again.returncode == 1
    assert "nothing to go back to" in again.stderr
    newest = outcomes(service)[0]
    assert (newest["kind"], newest["outcome"], newest["reason"]) == ("rollback", "completed", "killed")
    assert service.in_service() == FIRST


@pytest.mark.parametrize("step", ALL if IS_SOAK else ("start",))
def test_a_command_that_was_killed_where_no_service_runs_is_settled_by_the_next_one(
    service: ReleaseService, step: str
) -> None:
    killed = service.llmstack("release", "promote", SECOND, *OVERRIDE, killed_at=step)
    assert killed.returncode == -signal.SIGKILL
    back = service.llmstack("release", "rollback", "--root-cause", "settle first")
    if step == "readiness_on":
        assert back.returncode == 0, back.stderr
    else:
        assert back.returncode == 1
        assert "nothing to go back to" in back.stderr
    assert service.in_service() == FIRST
    assert not any(change["outcome"] == "open" for change in outcomes(service))


@ONLY_IN_SOAK
def test_a_command_that_is_killed_leaves_the_service_to_finish(service: ReleaseService) -> None:
    service.start()
    service.wait_ready()
    asking = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE)
    wait_until(lambda: outcomes(service)[0]["outcome"] == "open")
    asking.kill()
    wait_until(lambda: outcomes(service)[0]["outcome"] == "completed")
    assert service.served() == SECOND
    assert service.llmstack("release", "rollback", "--root-cause", "back").returncode == 0
    service.end()


def test_a_rollback_works_while_the_server_is_dead_and_is_told(service: ReleaseService, tmp_path: Path) -> None:
    assert service.llmstack("release", "promote", SECOND, *OVERRIDE).returncode == 0
    with WebhookReceiver(new_secret()) as receiver:
        environment = {
            url_variable(READINESS): receiver.url,
            secret_variable(READINESS): str(write_secrets(tmp_path / "secret", receiver.secret)),
        }
        arguments = ("release", "rollback", "--root-cause", "the server is dead", "--json")
        done = service.llmstack(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert receiver.forgeries == []
    event = receiver.received[-1].event
    assert (event["type"], event["data"]["root_cause"]) == ("llm_rollback_completed", "the server is dead")
    told = json.loads(done.stdout)
    assert (told["from"], told["to"], told["outcome"], told["is_served"]) == (SECOND, FIRST, "completed", False)
    assert service.in_service() == FIRST
