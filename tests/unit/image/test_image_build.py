"""The build context, the build arguments and Docker's output, without Docker."""

import io
import tarfile

import pytest

from llmstack.diagnostics.image_tag import parse_tag
from llmstack.paths import PROJECT_ROOT

pytest.importorskip("docker.errors")

from llmstack.image.docker_client import ImageError
from llmstack.image.image_build import VARIANTS, output_lines, version_arguments, write_context


def names_in_context(root):
    file = io.BytesIO()
    write_context(root, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        return set(tar.getnames())


def test_the_context_contains_the_embedded_release_and_no_other(tmp_path):
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


def test_the_context_contains_the_files_that_the_dockerfile_copies():
    names = names_in_context(PROJECT_ROOT)
    assert {"docker/Dockerfile", "requirements/container.txt", "artifacts/releases/embedded/manifest.json"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", ".git", ".venv"))]


def test_the_build_arguments_name_version_and_commit():
    arguments = version_arguments(PROJECT_ROOT)
    assert arguments["VERSION"] in (PROJECT_ROOT / "pyproject.toml").read_text()
    assert arguments["REVISION"]


def test_the_image_with_vllm_is_nvidias_of_the_adapters_version_and_runs_engines_in_its_own_python():
    arguments = VARIANTS["vllm"].arguments
    tag = parse_tag(arguments["TRITON_IMAGE"])
    assert (tag.vllm_errors(), tag.vllm_warnings()) == ([], [])
    assert arguments["ENGINE_PYTHON"] == "/usr/bin/python3"


def test_the_dockerfile_takes_every_build_argument():
    dockerfile = (PROJECT_ROOT / "docker" / "Dockerfile").read_text()
    for name in (*version_arguments(PROJECT_ROOT), *VARIANTS["vllm"].arguments):
        assert f"ARG {name}=" in dockerfile


def test_the_output_has_one_line_per_layer_and_an_error_raises():
    lines = [{"status": "Downloading", "id": "abc", "progress": "[=> ] 1MB/9MB"}, {"stream": "Step 1/2 : FROM x\n"}]
    assert list(output_lines(lines)) == ["abc: Downloading [=> ] 1MB/9MB", "Step 1/2 : FROM x"]
    with pytest.raises(ImageError, match="no space"):
        list(output_lines([{"error": "no space left"}]))
