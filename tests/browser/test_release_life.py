"""The life of a release: published, checked, signed off in a browser, promoted under load, rolled back."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_policy.release.manifest import TASKS
from tests.board_client import LiveBoard, live_board
from tests.browser.test_board import CHROMIUM, log_in, take_screenshot
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, SECOND, ReleaseService
from tests.integration.release_traffic import ReleaseTraffic
from tests.releases import update_manifest_hashes, write_evaluation
from tests.soak import ONLY_IN_SOAK

pytest.importorskip("playwright")
from playwright.sync_api import Browser, expect, sync_playwright

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium"),
]
MAX_PROMPT_TOKENS = 64  # keeps the warm-up of random weights short: it is capped at the release's limit
EXPECT = {"schema_valid": True, "finish_reason": "stop", "max_cost_usd": 0.01}
SLICE = {"text_input": "Is it so?", "quantisation": "w4a8", "max_tokens": 256, "expect": EXPECT}
SLICES = [{**SLICE, "id": f"{task}-1", "task": task} for task in TASKS]
WRONG = {**SLICE, "id": "judge-2", "task": "judge", "expect": {"values": {"/verdict": "maybe"}}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseService]:
    directory = tmp_path_factory.mktemp("life")
    artifacts = directory / "service" / "artifacts"
    with live_board(directory, artifacts) as board:
        token_file = directory / "token"
        token_file.write_text(board.add_reader())
        environment = {
            "LLMSTACK_READINESS_WEBHOOK_URL": f"{board.url}/webhooks",
            "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(board.settings.webhook_secrets),
            "LLMSTACK_BOARD_URL": board.url,
            "LLMSTACK_BOARD_TOKEN_FILE": str(token_file),
        }
        with ReleaseService(
            directory / "service", "embedded", environment, max_prompt_tokens=MAX_PROMPT_TOKENS
        ) as live:
            live.board = board  # type: ignore[attr-defined]
            yield live


@pytest.fixture(scope="module")
def board(service: ReleaseService) -> LiveBoard:
    return service.board  # type: ignore[attr-defined]


def write_slices(directory: Path, slices: list[dict]) -> Path:
    path = directory / "slices.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in slices))
    return path


def gates(service: ReleaseService, name: str) -> dict[str, list[str]]:
    found = json.loads(service.llmstack("release", "status", name, "--json").stdout)["gates"]
    return {gate: missing for gate, missing in found.items() if missing}


def test_a_release_is_published_checked_signed_off_promoted_and_rolled_back(
    service: ReleaseService, board: LiveBoard, browser: Browser, tmp_path: Path
) -> None:
    directory = service.store.directory(SECOND)
    with ThreadPoolExecutor(16) as clients:  # a batch holds four, so the others breach the queue delay
        list(clients.map(lambda _: service.send_request(max_tokens=32), range(16)))

    rejected = service.llmstack("release", "promote", SECOND)
    assert rejected.returncode == 1
    for gate in ("alignment", "warm-up", "smoke", "sign-offs"):
        assert f"✘ {gate}" in rejected.stderr

    slices = write_slices(tmp_path, SLICES)
    for name, where in ((FIRST, service.urls()), (SECOND, ("--serve",))):
        release = str(service.store.directory(name))
        warmed = service.llmstack("warmup", "--release", release, *where)
        assert warmed.returncode == 0, warmed.stdout + warmed.stderr
        smoked = service.llmstack("smoke", "--release", release, "--slices", str(slices), *where)
        assert smoked.returncode == 0, smoked.stdout + smoked.stderr
        write_evaluation(Path(release), "eval-blueprint.json")
        assert set(gates(service, name)) == {"sign-offs"}
    record = json.loads((directory / "smoke.json").read_text())
    assert record["files"] == {slices.name: hashlib.sha256(slices.read_bytes()).hexdigest()}

    for name, scheme in (("Ada", "light"), ("Grace", "dark")):
        page = log_in(browser, board, board.add(name), scheme)
        for release in (FIRST, SECOND):
            page.goto(board.url)
            page.get_by_role("link", name=release, exact=True).first.click()
            expect(page.get_by_text("passed").first).to_be_visible()
            page.get_by_label("Comment").fill("Both runs passed")
            take_screenshot(page, f"life-sign-{release}-{scheme}")
            page.get_by_role("button", name="Sign off").click()
            expect(page.get_by_role("button", name="Withdraw my sign-off")).to_be_visible()
        page.context.close()
    assert gates(service, FIRST) == gates(service, SECOND) == {}

    with ReleaseTraffic(service) as traffic:
        traffic.wait_answered(FIRST)
        promoted = service.llmstack("release", "promote", SECOND, "--json")
        assert promoted.returncode == 0, promoted.stderr
        traffic.wait_answered(SECOND)
    traffic.check()
    assert "draining" in {code for _, code in traffic.answers}
    assert service.served() == SECOND
    change = json.loads(promoted.stdout)
    assert (change["required_sign_offs"], change["reviewers"]) == (2, ["Ada", "Grace"])
    assert "@" in change["operator"]

    wrong = write_slices(tmp_path, [*SLICES, WRONG])
    smoked = service.llmstack("smoke", "--release", str(directory), "--slices", str(wrong), *service.urls(), "--json")
    assert smoked.returncode == 1, smoked.stderr
    assert json.loads(smoked.stdout)["num_passed"] == len(SLICES)

    rolled_back = service.llmstack("release", "rollback", "--root-cause", "it answers nonsense", "--json")
    assert rolled_back.returncode == 0, rolled_back.stderr
    change = json.loads(rolled_back.stdout)
    assert (change["from"], change["to"]) == (SECOND, FIRST)
    assert service.served() == FIRST
    print(f"promotion {json.loads(promoted.stdout)['duration_s']} s, rollback {change['duration_s']} s")
    print(traffic.answers)
    blocked = service.llmstack("release", "promote", SECOND, "--json")
    assert blocked.returncode == 1
    assert list(json.loads(blocked.stdout)["missing"]) == ["smoke", "sign-offs"]
    assert json.loads(blocked.stdout)["missing"]["sign-offs"][0].endswith(": it answers nonsense")

    page = log_in(browser, board, board.add("Lin"))
    page.get_by_role("link", name="Alerts").click()
    expect(page.get_by_role("rowheader", name="queue_delay").last).to_be_visible()
    page.get_by_role("link", name="History").click()

    def has_both() -> bool:
        page.reload()
        text = page.locator("main").inner_text()
        return "promotion" in text and "it answers nonsense" in text

    wait_until(has_both)
    take_screenshot(page, "life-history")
    again = service.llmstack("release", "rollback", "--root-cause", "once more")
    assert again.returncode == 1
    assert "no release to return to" in again.stderr


def test_a_slice_for_another_engine_is_refused_and_the_run_does_not_pass(
    service: ReleaseService, tmp_path: Path
) -> None:
    other = {**SLICES[0], "engine_hash": service.headers_of(SECOND)["X-Engine-Hash"]}
    slices = write_slices(tmp_path, [other])
    arguments = ("smoke", "--release", str(service.store.link), "--slices", str(slices), *service.urls())
    run = service.llmstack(*arguments, "--json")
    assert run.returncode == 1, run.stderr
    record = json.loads(run.stdout)
    assert (record["passed"], record["num_refused"]) == (False, 1)
    wrong = service.llmstack("smoke", "--release", str(service.store.directory(SECOND)), *arguments[3:])
    assert wrong.returncode == 2
    assert "serves another release" in wrong.stderr


@ONLY_IN_SOAK
def test_a_bad_release_is_rejected_or_taken_back_automatically(
    service: ReleaseService, board: LiveBoard, tmp_path: Path
) -> None:
    override = ("--override", "to see what happens")

    slow = service.llmstack("release", "promote", SECOND, *override, "--start-timeout-secs", "1")
    assert (slow.returncode, service.served(), service.in_service()) == (1, FIRST, FIRST)
    assert "not ready after 1 s" in slow.stdout

    broken = make_broken(service, tmp_path / "broken")
    service.llmstack("release", "publish", str(broken)).check_returncode()
    failed = service.llmstack("release", "promote", "broken", *override)
    assert (failed.returncode, service.served(), service.in_service()) == (1, FIRST, FIRST)
    assert service.is_ready()

    changed = service.store.directory("broken") / "engine" / "config.json"
    changed.write_text(changed.read_text() + " ")
    rejected = service.llmstack("release", "promote", "broken", *override)
    assert rejected.returncode == 1
    assert "✘ files" in rejected.stderr and "engine.hash" in rejected.stderr

    def causes() -> list[str]:
        client = board.log_in(board.add(f"reader {time.monotonic()}"))
        text = client.get("/history").text
        return [cause for cause in ("not ready after 1 s", "warming up") if cause in text]

    wait_until(lambda: len(causes()) == 2)


def make_broken(service: ReleaseService, directory: Path) -> Path:
    """A release that starts and can't answer, because its weights are NaN; its files match its manifest."""
    shutil.copytree(service.store.directory(FIRST), directory)
    weights = directory / "engine" / "model.safetensors"
    tensors = load_file(weights)
    save_file(
        {name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()}, weights, {"format": "pt"}
    )
    update_manifest_hashes(directory)
    return directory
