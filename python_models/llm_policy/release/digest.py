"""The engine hash (the value of `X-Engine-Hash`), and a fingerprint of the engine files that needs no reading."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def file_digest(path: Path) -> str:
    """SHA-256 of one file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def engine_hash(path: Path) -> str:
    """The hash (`sha256:…`) of an engine file or an engine directory.

    A directory's hash is that of the listing `<file's hex digest>  ./<relative path>\\n` of all files, sorted by path
    bytes. It equals `find -L . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum`.
    Symbolic links are followed, because the engine follows them.

    Raises:
        FileNotFoundError: there is no such path, or the directory has no files.
        OSError: a file can't be read, or its name has a backslash or an unprintable character, with which two different
            directories could have the same listing.
    """
    if path.is_file():
        return "sha256:" + file_digest(path)
    names = _sorted_names(path)
    listing = b"".join(f"{file_digest(path / name)}  ./".encode() + os.fsencode(name) + b"\n" for name in names)
    return "sha256:" + hashlib.sha256(listing).hexdigest()


def engine_fingerprint(path: Path) -> str:
    """A hash of the metadata of an engine's files: path, size, modification and change times, inode, device.

    It does not cover the contents, but every write changes a file's times.

    Raises:
        OSError: as in `engine_hash`.
    """
    names = [""] if path.is_file() else _sorted_names(path)
    stats = ((name, (path / name).stat()) for name in names)
    lines = [f"{name} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino} {s.st_dev}\n" for name, s in stats]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sorted_names(directory: Path) -> list[str]:
    names = sorted(_file_names(directory), key=os.fsencode)
    if not names:
        raise FileNotFoundError(errno.ENOENT, "no engine file", str(directory))
    return names


def _file_names(directory: Path) -> Iterator[str]:
    """The relative paths of all files below `directory`."""
    for folder, _, names in os.walk(directory, onerror=_raise, followlinks=True):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if "\\" in relative or not relative.isprintable():
                raise OSError(errno.EINVAL, "a file's name has a backslash or unprintable character", str(path))
            if not path.exists():
                raise FileNotFoundError(errno.ENOENT, "broken link", str(path))
            if path.is_file():
                yield relative


def _raise(error: OSError) -> None:
    raise error
