"""A live service behind `artifacts/current`, with two releases in the store, and the commands of an operator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from embedded_model.release.builder import build_release
from llm_policy.release.release import Release
from llmstack.paths import MODEL_REPOSITORY
from llmstack.release.store import ReleaseStore, point_link
from tests.integration.live_service import LiveService
from tests.releases import change_manifest, update_manifest_hashes

FIRST, SECOND = "one", "two"


def faulty_models(directory: Path) -> Path:
    """A model repository whose no-op engine has the fault that its release names."""
    shutil.copytree(MODEL_REPOSITORY, directory)
    shutil.copy(Path(__file__).parent / "faulty_engine.py", directory / "tensorrt_llm" / "1" / "model.py")
    return directory


class ReleaseService(LiveService):
    """Release `one` is in service, `two` is published. Both have random weights of different seeds and `thresholds`."""

    def __init__(
        self,
        directory: Path,
        engine_name: str = "embedded",
        environment: dict[str, str] | None = None,
        **thresholds: int,
    ) -> None:
        super().__init__(directory, engine_name, environment)
        shutil.rmtree(self.release_dir)
        self.store = ReleaseStore(directory / "artifacts")
        for seed, name in enumerate((FIRST, SECOND), 1):
            built = build_release(directory / "built" / name, seed=seed)
            tree = json.loads((built.directory / "manifest.json").read_text())
            change_manifest(built.directory, thresholds={**tree["thresholds"], **thresholds})
            self.llmstack("release", "publish", str(directory / "built" / name)).check_returncode()
        point_link(self.store.link, self.store.directory(FIRST))
        self.release_dir = self.store.link
        self.headers = self.headers_of(FIRST)
        self.killed_at = ""

    def command(self, *more: str) -> list[str]:
        command = super().command(*more)
        if not self.killed_at:
            return command
        return [command[0], "-m", "tests.integration.killed_at", self.killed_at, *command[3:]]

    def urls(self) -> tuple[str, ...]:
        """The options that direct a release check to the live server."""
        return "--http-url", self.http_url, "--metrics-url", self.metrics_url, "--ready-url", self.ready_url

    def add_release(self, name: str, fault: str) -> None:
        """Publish a release whose engine has this fault: see `faulty_engine`."""
        directory = shutil.copytree(self.store.directory(FIRST), self.store.releases_dir.parents[1] / "built" / name)
        (directory / "engine" / "fault").write_text(fault)
        update_manifest_hashes(directory)
        self.llmstack("release", "publish", str(directory)).check_returncode()

    def headers_of(self, name: str) -> dict[str, str]:
        engine = Release.open(self.store.directory(name)).manifest.engine
        return {"X-Engine-Hash": engine.hash, "X-Quantisation": engine.quantisation}

    def in_service(self) -> str:
        """The release whose files `current` leads to."""
        directory = self.store.in_service()
        return directory.name if directory else ""

    def served(self) -> str:
        """The release that /readyz names."""
        return Path(self.readiness().get("release", "")).name

    def llmstack(
        self, *arguments: str, killed_at: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this store and state directory; with `killed_at` it gets SIGKILL at that step."""
        module = ["tests.integration.killed_at", killed_at] if killed_at else ["llmstack"]
        command = [sys.executable, "-m", *module, *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=240,
            env=self._variables() | (environment or {}),
            check=False,
        )

    def llmstack_in_background(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`llmstack` without waiting for its end."""
        command = [sys.executable, "-m", "llmstack", *arguments]
        return subprocess.Popen(command, env=self._variables(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_killed(self) -> None:
        """Wait until the parent and every process that it started are dead."""
        assert self.process is not None
        family = self.child_processes()
        self.process.wait(timeout=120)
        psutil.wait_procs(family, timeout=20)

    def _variables(self) -> dict[str, str]:
        return {
            **os.environ,
            **self._environment,
            "LLMSTACK_ARTIFACTS_DIR": str(self.store.releases_dir.parent),
            "LLMSTACK_STATE_DIR": str(self.state_dir),
            "LLMSTACK_ENGINE": self._engine_name,
            "COLUMNS": "200",
        }
