"""SHA-256 of an engine: what `X-Engine-Hash` names."""

from __future__ import annotations

import hashlib
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
    """`sha256:…` of an engine file, or of an engine directory.

    A directory's hash is that of the listing `<file's hex digest>  ./<relative path>\\n` over all files, sorted by
    path bytes, so that anyone can check it with
    `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`.

    Raises:
        FileNotFoundError: there is no such path, or the directory holds no file.
    """
    if path.is_file():
        return "sha256:" + file_digest(path)
    files = sorted((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.relative_to(path).as_posix().encode())
    if not files:
        raise FileNotFoundError(f"no engine file in {path}")
    listing = "".join(f"{file_digest(f)}  ./{f.relative_to(path).as_posix()}\n" for f in files)
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
