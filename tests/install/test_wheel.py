"""The wheel, installed into a fresh environment and used in an empty directory, without the checkout."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.import_graph import ROOT

PACKAGES = {
    "llm_policy": "python_models",
    "engine_process": "python_models",
    "ensemble_stream": "python_models",
    "portable_engine": "python_models",
    "llmstack": "tools",
}
BUNDLED = ("model_repository", "artifacts/releases/embedded", "artifacts/slices")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of an environment that holds the wheel with its extras `engine` and `server`."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    # The lock's versions as constraints: what is installed here is what everything else is tested with.
    lock = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    constraints = directory / "constraints.txt"
    constraints.write_text(re.sub(r" \\\n(    --hash=\S+( \\)?\n)+", "\n", lock), encoding="utf-8")
    subprocess.run(
        [directory / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraints,
         "--requirement", ROOT / "requirements" / "torch.txt", f"{wheel}[engine,server]"],
        check=True, timeout=900,
    )  # fmt: skip
    return directory / "bin"


@pytest.fixture
def environment(installed: Path, tmp_path: Path) -> dict[str, str]:
    """No variable that leads back to the checkout."""
    return {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8", "COLUMNS": "200"}


@pytest.fixture
def empty_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def run(command: list[str], directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def test_the_wheel_has_every_file_of_its_packages_and_of_the_bundle(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        path.relative_to(ROOT / root).as_posix()
        for package, root in PACKAGES.items()
        for path in (ROOT / root / package).rglob("*")
        if is_source(path)
    ]
    bundled = [
        f"llmstack/bundle/{path.relative_to(ROOT)}"
        for name in BUNDLED
        for path in (ROOT / name).rglob("*")
        if is_source(path)
    ]
    assert set(sources + bundled) - names == set()
    assert any(name.endswith(".lua") for name in names)


def test_the_wheel_has_neither_tests_nor_the_embedded_models_training(wheel: Path) -> None:
    assert {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        *PACKAGES,
        f"llm_serving_stack-{wheel.name.split('-')[1]}.dist-info",
    }


def test_demo_runs_without_a_checkout(empty_directory: Path, environment: dict[str, str]) -> None:
    done = run(["llmstack", "demo"], empty_directory, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 36 replies" in done.stdout


def test_doctor_finds_nothing_missing_without_a_checkout(empty_directory: Path, environment: dict[str, str]) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--ready-port", "0"]
    done = run(["llmstack", "doctor", "--json", *ports], empty_directory, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {check["check"]: check["verdict"] for check in json.loads(done.stdout)}
    assert verdicts["release"] == "ok"
    assert "fail" not in verdicts.values()


def announced(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if line.startswith("ready"):
            return


def test_serve_answers_and_stops_without_a_checkout(empty_directory: Path, environment: dict[str, str]) -> None:
    ports = ("http", "grpc", "metrics", "ready", "openai")
    command = ["llmstack", "serve", *(word for name in ports for word in (f"--{name}-port", "0"))]
    with subprocess.Popen(
        command, cwd=empty_directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output = "".join(announced(process))
            ready_url = re.search(r"^Readiness +(\S+)$", output, re.MULTILINE)
            assert ready_url, output
            ready = run(["llmstack", "ready", "--url", ready_url[1]], empty_directory, environment)
            assert ready.returncode == 0, ready.stdout + ready.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert list(empty_directory.iterdir()) == []
