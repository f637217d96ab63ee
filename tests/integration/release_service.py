"""A live service behind `artifacts/current`, with two releases in the store, and the commands an operator types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from llm_policy.release import Release
from llmstack.embedded.release import build_release
from llmstack.release.store import ReleaseStore, point_link
from tests.integration.live_service import LiveService

FIRST, SECOND = "one", "two"


class ReleaseService(LiveService):
    """Release `one` is in service; `two` is published. Both are random, of different seeds."""

    def __init__(
        self, directory: Path, engine_name: str = "embedded", environment: dict[str, str] | None = None
    ) -> None:
        super().__init__(directory, engine_name, environment)
        shutil.rmtree(self.release_dir)
        self.store = ReleaseStore(directory / "artifacts")
        for seed, name in enumerate((FIRST, SECOND), 1):
            build_release(directory / "built" / name, seed=seed)
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
        """Run a command on this store and state directory; with `killed_at` it is killed -9 at that step."""
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
        """The same, without waiting."""
        command = [sys.executable, "-m", "llmstack", *arguments]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=self._variables(), **silent)

    def die(self) -> None:
        """Wait until the parent was killed, and all that it started with it."""
        assert self.process is not None
        family = self.family()
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
