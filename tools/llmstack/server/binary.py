"""The `tritonserver` program: in NVIDIA's image under /opt/tritonserver, else in the PyPI package `nvidia-pytriton`.

Unlike the image, the PyPI package keeps its Python backend and the stub for each Python version in separate
directories, so a directory of links joins them. Its libraries and libpython are not on the loader's path.

The standard library alone must do here: the doctor checks the Python environment with this module.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmstack.server.error import ServerStartError

IMAGE_ROOT = Path("/opt/tritonserver")
PACKAGE = "pytriton"
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class ServerBinary:
    """One `tritonserver`. `stub` is None where `backends` is complete."""

    path: Path
    backends: Path
    stub: Path | None = None
    library_dirs: tuple[Path, ...] = ()

    def check_backend(self, name: str) -> None:
        """Check that this server has the backend `name`.

        Raises:
            ServerStartError: the backend is missing.
        """
        if not (self.backends / name).is_dir():
            raise ServerStartError(
                f"this tritonserver has no {name} backend in {self.backends}",
                "run in NVIDIA's image that has it (tags end in -trtllm-python-py3), or choose another --engine",
            )

    def lay_out_backends(self, directory: Path) -> Path:
        """The directory for `--backend-directory`: the server's own, else one of links, created in `directory`.

        Each link is created by a rename, so servers that start at the same time may share `directory`.
        """
        if self.stub is None:
            return self.backends
        root = directory / f"backends-{self.stub.parent.name}"
        python = root / "python"
        python.mkdir(parents=True, exist_ok=True)
        for target in [*(f for f in (self.backends / "python").iterdir() if f.is_file()), self.stub]:
            _link(python / target.name, target)
        return root


def find_server_binary(image_root: Path = IMAGE_ROOT) -> ServerBinary:
    """The image's server, else the PyPI package's.

    Raises:
        ServerStartError: there is no server, or this Python can't run its models.
    """
    program = image_root / "bin" / "tritonserver"
    if program.is_file():
        return ServerBinary(program, image_root / "backends")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError(
            f"no tritonserver: neither {program} nor the PyPI package nvidia-pytriton is installed",
            "pip install 'llm-serving-stack[server]' (Linux on x86-64), or run in NVIDIA's Triton image",
        )
    _check_numpy()
    return packaged_server(Path(spec.submodule_search_locations[0]), sys.version_info[:2])


def packaged_server(package: Path, python_version: tuple[int, int]) -> ServerBinary:
    """The server inside the installed package at `package`, with the stub for `python_version`.

    Raises:
        ServerStartError: the package has no stub for this Python, or this Python has no shared library.
    """
    root, version = package / "tritonserver", ".".join(map(str, python_version))
    stub = root / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        known = sorted((path.parent.name for path in root.glob(f"python_backend_stubs/*/{_STUB}")), key=_numbers)
        raise ServerStartError(
            f"this tritonserver runs no models on Python {version}, only on {', '.join(known) or 'none'}",
            "create the virtual environment with Python 3.10, 3.11 or 3.12",
        )
    libraries = (package.parent / "nvidia_pytriton.libs", find_libpython_dir(version))
    return ServerBinary(root / "bin" / "tritonserver", root / "backends", stub, libraries)


def find_libpython_dir(version: str) -> Path:
    """The directory of the shared libpython that the stub loads.

    Raises:
        ServerStartError: this Python has none; Debian and Ubuntu don't install it with Python.
    """
    name = f"libpython{version}.so.1.0"
    lib = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for directory in (lib, lib / multiarch, Path(sys.base_prefix, "lib"), Path("/usr/lib", multiarch)):
        if (directory / name).is_file():
            return directory
    raise ServerStartError(
        f"{name} is missing: Triton's Python models need Python's shared library",
        f"apt-get install libpython{version} (Debian, Ubuntu), or use a Python built with --enable-shared",
    )


def _check_numpy() -> None:
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise ServerStartError(
            f"numpy {version} is installed: this Triton's Python backend sends wrong strings with numpy 2",
            "pip install 'numpy==1.26.4'",
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _link(link: Path, target: Path) -> None:
    """Point `link` at `target` by a rename, so that an existing link never disappears."""
    if link.is_symlink() and link.readlink() == target:
        return
    with tempfile.TemporaryDirectory(dir=link.parent) as directory:
        new_link = Path(directory, link.name)
        new_link.symlink_to(target)
        new_link.replace(link)
