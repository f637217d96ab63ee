"""The image's commands, without Docker: what it is sent, what it says, and what an image's description is worth."""

import io
import tarfile

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.cli.terminal import CANT_TELL
from llmstack.paths import PROJECT_ROOT

docker = pytest.importorskip("docker.errors")

from llmstack.image.docker_engine import ImageError  # noqa: E402
from llmstack.image.examination import check_healthcheck, check_labels, check_user  # noqa: E402
from llmstack.image.image_build import origin_of, progress, write_context  # noqa: E402


def names_in_context(root):
    file = io.BytesIO()
    write_context(root, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        return set(tar.getnames())


def test_docker_gets_the_embedded_release_and_no_other(tmp_path):
    lines = (PROJECT_ROOT / ".dockerignore").read_text()
    (tmp_path / ".dockerignore").write_text("\n".join(line for line in lines.splitlines() if "artifacts" in line))
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").touch()
    (tmp_path / "artifacts" / "slices").mkdir(parents=True)
    for name in ("releases/embedded/manifest.json", "releases/rc-2/engine.plan", "engines/qwen3-32b-w4a8.plan"):
        (tmp_path / "artifacts" / name).parent.mkdir(parents=True)
        (tmp_path / "artifacts" / name).write_bytes(b"x")
    assert {name for name in names_in_context(tmp_path) if "artifacts" in name} == {
        "artifacts/releases/embedded",
        "artifacts/releases/embedded/manifest.json",
        "artifacts/slices",
    }


def test_docker_gets_what_the_dockerfile_copies():
    names = names_in_context(PROJECT_ROOT)
    assert {"docker/Dockerfile", "requirements/container.txt", "artifacts/releases/embedded/manifest.json"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", ".git", ".venv"))]


def test_the_labels_say_what_the_image_is_made_from():
    arguments = origin_of(PROJECT_ROOT)
    assert arguments["VERSION"] in (PROJECT_ROOT / "pyproject.toml").read_text()
    assert arguments["REVISION"]


def test_what_docker_says_of_a_layer_is_one_line_and_a_fault_ends_it():
    lines = [{"status": "Downloading", "id": "abc", "progress": "[=> ] 1MB/9MB"}, {"stream": "Step 1/2 : FROM x\n"}]
    assert list(progress(lines)) == ["abc: Downloading [=> ] 1MB/9MB", "Step 1/2 : FROM x"]
    with pytest.raises(ImageError, match="no space"):
        list(progress([{"error": "no space left"}]))


@pytest.mark.parametrize("user", ["", "root", "0", "llmstack"])
def test_a_user_that_may_be_root_is_found(user):
    assert not check_user({"User": user}).ok
    assert check_user({"User": "10001"}).ok


def test_missing_labels_and_health_checks_are_found():
    assert not check_labels({"Labels": None}).ok
    assert not check_healthcheck({"Healthcheck": {"Test": ["CMD", "true"]}}).ok


def test_a_docker_that_does_not_answer_is_said_with_a_next_step(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    for command in ("build", "check"):
        result = CliRunner().invoke(app, ["image", command])
        assert result.exit_code == CANT_TELL
        assert "error: Docker:" in result.stderr
        assert "docker info" in result.stderr
