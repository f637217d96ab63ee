from __future__ import annotations

import pytest

from llmstack.diagnostics.deployment import Deployment
from llmstack.paths import DEFAULT_RELEASE_DIR, MODEL_REPOSITORY


@pytest.fixture
def deployment(tmp_path):
    """The embedded release on any free ports, with a state directory that does not exist yet."""
    ports = dict.fromkeys(("http", "grpc", "metrics", "ready"), 0)
    return Deployment(
        DEFAULT_RELEASE_DIR, "embedded", (), tmp_path / "state", MODEL_REPOSITORY, "127.0.0.1", ports, None, False, {}
    )


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution's metadata first on the path, like a package that the image brings."""

    def put(name, version):
        metadata = tmp_path / "site" / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return put


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Replaces nvidia-smi by a program that prints the given lines."""

    def put(*lines):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    return put
