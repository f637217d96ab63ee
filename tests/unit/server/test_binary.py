"""Where tritonserver comes from, and the errors when it can't run."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmstack.server.binary import ServerBinary, find_libpython_dir, find_server_binary, packaged_server
from llmstack.server.error import ServerStartError


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package with the files that matter here."""
    root = tmp_path / "pytriton" / "tritonserver"
    write(root / "bin" / "tritonserver")
    write(root / "backends" / "python" / "libtriton_python.so")
    write(root / "backends" / "python" / "triton_python_backend_utils.py")
    for version in ("3.8", "3.10", "3.11", "3.12"):
        write(root / "python_backend_stubs" / version / "triton_python_backend_stub")
    return tmp_path / "pytriton"


def this_package(package: Path) -> ServerBinary:
    return packaged_server(package, sys.version_info[:2])


def test_the_images_server_has_precedence(tmp_path):
    program = write(tmp_path / "bin" / "tritonserver")
    binary = find_server_binary(tmp_path)
    assert binary.path == program
    assert binary.lay_out_backends(tmp_path / "unused") == tmp_path / "backends"
    assert not (tmp_path / "unused").exists()


def test_the_packages_backends_are_joined_with_the_stub_of_this_python(package, tmp_path):
    backends = this_package(package).lay_out_backends(tmp_path / "state")
    names = {path.name for path in (backends / "python").iterdir()}
    assert names == {"libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"}
    assert all(path.read_text() == path.name for path in (backends / "python").iterdir())


def test_servers_that_start_at_the_same_time_may_share_a_directory(package, tmp_path):
    binary = this_package(package)
    with ThreadPoolExecutor(8) as pool:
        backends = list(pool.map(lambda _: binary.lay_out_backends(tmp_path / "state"), range(64)))
    assert len(set(backends)) == 1
    assert len(list((backends[0] / "python").iterdir())) == 3


def test_links_of_an_older_installation_are_replaced(package, tmp_path):
    stale = tmp_path / "state" / this_package(package).lay_out_backends(tmp_path / "state").name / "python"
    (stale / "libtriton_python.so").unlink()
    (stale / "libtriton_python.so").symlink_to("/nowhere")
    this_package(package).lay_out_backends(tmp_path / "state")
    assert (stale / "libtriton_python.so").read_text() == "libtriton_python.so"


def test_a_python_without_a_stub_is_an_error_that_names_the_supported_versions(package):
    with pytest.raises(ServerStartError, match=r"Python 3\.9, only on 3\.8, 3\.10, 3\.11, 3\.12") as raised:
        packaged_server(package, (3, 9))
    assert "3.10, 3.11 or 3.12" in raised.value.next_step


def test_a_python_without_a_shared_library_is_an_error_that_names_the_package():
    with pytest.raises(ServerStartError, match=r"libpython3\.99\.so\.1\.0 is missing") as raised:
        find_libpython_dir("3.99")
    assert "libpython3.99" in raised.value.next_step


def test_a_missing_backend_is_named(package):
    with pytest.raises(ServerStartError, match="no tensorrtllm backend"):
        this_package(package).check_backend("tensorrtllm")
