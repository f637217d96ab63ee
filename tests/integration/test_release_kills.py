"""SIGKILL of the process that performs a promotion or a rollback, at each journalled step.

The next start or command resolves the change. Each step takes a whole start of the server, so only LLMSTACK_SOAK=1
tests every step.
"""

import json
import signal
from collections.abc import Iterator

import pytest

from llmstack.release.change import PREPARATION_STEPS, UNDOING
from llmstack.supervision.startup import PHASES
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, SECOND, ReleaseService
from tests.soak import IS_SOAK, ONLY_IN_SOAK

pytestmark = [pytest.mark.server, pytest.mark.slow]

ALL_STEPS = (*PREPARATION_STEPS, *PHASES)
OVERRIDE = ("--override", "test", "--required-sign-offs", "0")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseService]:
    live = ReleaseService(tmp_path_factory.mktemp("kills"), "echo")
    try:
        yield live
    finally:
        if live.process is not None:
            live.kill_all()


def history(service: ReleaseService) -> list[dict]:
    return json.loads(service.llmstack("release", "history", "--json").stdout)


@pytest.mark.parametrize("step", ALL_STEPS if IS_SOAK else ("switch",))
def test_the_next_start_resolves_a_promotion_whose_parent_was_killed(service: ReleaseService, step: str) -> None:
    service.killed_at = step
    service.start()
    service.wait_ready()
    command = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE)
    service.wait_killed()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    command.wait(timeout=60)
    expected = SECOND if step == "readiness_on" else FIRST
    assert (service.in_service(), service.served()) == (expected, expected)
    wait_until(lambda: history(service)[0]["outcome"] == ("completed" if expected == SECOND else "undone"))
    if expected == SECOND:
        assert service.llmstack("release", "rollback", "--root-cause", "back").returncode == 0
    service.kill_all()


@ONLY_IN_SOAK
@pytest.mark.parametrize("step", ALL_STEPS)
def test_the_next_start_continues_a_rollback_whose_parent_was_killed(service: ReleaseService, step: str) -> None:
    service.start()
    service.wait_ready()
    assert service.llmstack("release", "promote", SECOND, *OVERRIDE).returncode == 0
    service.kill_all()
    service.killed_at = step
    service.start()
    service.wait_ready()
    command = service.llmstack_in_background("release", "rollback", "--root-cause", "killed")
    service.wait_killed()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    command.wait(timeout=60)
    assert (service.in_service(), service.served()) == (FIRST, FIRST)
    wait_until(lambda: history(service)[0]["outcome"] == "completed")
    assert history(service)[0]["reason"] == "killed"
    service.kill_all()


@ONLY_IN_SOAK
def test_the_next_start_undoes_a_promotion_whose_parent_was_killed_while_undoing_it(service: ReleaseService) -> None:
    service.killed_at = UNDOING
    service.start()
    service.wait_ready()
    command = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE, "--start-timeout-secs", "1")
    service.wait_killed()
    service.killed_at = ""
    service.start()
    service.wait_ready()
    assert command.wait(timeout=60) == 1
    wait_until(lambda: history(service)[0]["outcome"] == "undone")
    assert history(service)[0]["detail"] == "tritonserver is not ready after 1 s"
    assert (service.in_service(), service.served()) == (FIRST, FIRST)
    service.kill_all()


@ONLY_IN_SOAK
@pytest.mark.parametrize("step", ALL_STEPS)
def test_the_next_command_continues_a_rollback_whose_command_was_killed_without_a_service(
    service: ReleaseService, step: str
) -> None:
    assert service.llmstack("release", "promote", SECOND, *OVERRIDE).returncode == 0
    killed = service.llmstack("release", "rollback", "--root-cause", "killed", killed_at=step)
    assert killed.returncode == -signal.SIGKILL
    again = service.llmstack("release", "rollback", "--root-cause", "once more")
    assert again.returncode == 1
    assert "no release to return to" in again.stderr
    newest = history(service)[0]
    assert (newest["kind"], newest["outcome"], newest["reason"]) == ("rollback", "completed", "killed")
    assert service.in_service() == FIRST


@pytest.mark.parametrize("step", ALL_STEPS if IS_SOAK else ("start",))
def test_the_next_command_resolves_a_promotion_whose_command_was_killed_without_a_service(
    service: ReleaseService, step: str
) -> None:
    killed = service.llmstack("release", "promote", SECOND, *OVERRIDE, killed_at=step)
    assert killed.returncode == -signal.SIGKILL
    rollback = service.llmstack("release", "rollback", "--root-cause", "resolve first")
    if step == "readiness_on":
        assert rollback.returncode == 0, rollback.stderr
    else:
        assert rollback.returncode == 1
        assert "no release to return to" in rollback.stderr
    assert service.in_service() == FIRST
    assert not any(change["outcome"] == "open" for change in history(service))


@ONLY_IN_SOAK
def test_the_service_completes_a_promotion_whose_command_was_killed(service: ReleaseService) -> None:
    service.start()
    service.wait_ready()
    command = service.llmstack_in_background("release", "promote", SECOND, *OVERRIDE)
    wait_until(lambda: history(service)[0]["outcome"] == "open")
    command.kill()
    wait_until(lambda: history(service)[0]["outcome"] == "completed")
    assert service.served() == SECOND
    assert service.llmstack("release", "rollback", "--root-cause", "back").returncode == 0
    service.kill_all()
