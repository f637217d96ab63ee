"""A release directory and the proof that its files are the ones its manifest names.

<release>/manifest.json  engine/ (or engine.plan)  tokenizer/  tokenizer_info.json  schemas/…
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from llm_policy.digest import engine_hash, file_digest
from llm_policy.manifest import Manifest, ManifestError, read_manifest


class ReleaseError(ValueError):
    """The release on disk is not the one its manifest describes; the text lists every difference."""


@dataclass(frozen=True)
class Release:
    """One release on disk; `manifest_hash` is SHA-256 of manifest.json's bytes."""

    directory: Path
    manifest: Manifest
    manifest_hash: str

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Release:
        """Read the manifest of the release at `directory`; hashes nothing yet.

        Raises:
            ReleaseError: no such release, or its manifest is wrong.
        """
        path = Path(directory).resolve()
        if not path.is_dir():
            raise ReleaseError(f"no release at {directory}")
        try:
            manifest, manifest_hash = read_manifest(path / "manifest.json")
        except ManifestError as error:
            raise ReleaseError(str(error)) from None
        return cls(path, manifest, manifest_hash)

    @property
    def engine_path(self) -> Path:
        """The engine file `engine.plan`, or the engine directory."""
        plan = self.directory / "engine.plan"
        return plan if plan.exists() else self.directory / "engine"

    @property
    def tokenizer_dir(self) -> Path:
        """The Hugging Face tokenizer directory."""
        return self.directory / "tokenizer"

    @property
    def tokenizer_info_path(self) -> Path:
        """What guided decoding in the engine reads."""
        return self.directory / "tokenizer_info.json"

    def schema_text(self, name: str) -> str:
        """The text of the registered schema `name`.

        Raises:
            ReleaseError: there is no such schema, or its file is missing, outside the release or no UTF-8.
        """
        if name not in self.manifest.schemas:
            known = ", ".join(sorted(self.manifest.schemas)) or "none"
            raise ReleaseError(f"schemas.{name}: not in the manifest (there: {known})")
        file = self.manifest.schemas[name]
        try:
            path = (self.directory / file).resolve()
            if not path.is_relative_to(self.directory):
                raise ReleaseError(f"schemas.{name}: {file} leads out of the release")
            return path.read_bytes().decode()
        except OSError as error:
            raise ReleaseError(f"schemas.{name}: {file}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ReleaseError(f"schemas.{name}: {file}: byte {error.start} is no UTF-8") from None

    def check_files(self) -> list[str]:
        """Every difference between the files on disk and the manifest; empty when all is as it says."""
        return [*self._check_engine(), *self._check_tokenizer(), *self._check_schemas()]

    def verify_files(self) -> Release:
        """This release, proven.

        Raises:
            ReleaseError: lists what `check_files` found.
        """
        if findings := self.check_files():
            raise ReleaseError("\n".join(findings))
        return self

    def _check_engine(self) -> list[str]:
        expected = self.manifest.engine.hash
        try:
            found = engine_hash(self.engine_path)
        except OSError as error:
            return [f"engine.hash: manifest has {expected}, but the engine can't be read: {error}"]
        return [] if found == expected else [f"engine.hash: manifest has {expected}, on disk is {found}"]

    def _check_tokenizer(self) -> list[str]:
        expected = self.manifest.tokenizer.info_hash
        try:
            found = "sha256:" + file_digest(self.tokenizer_info_path)
            if found != expected:
                return [f"tokenizer.info_hash: manifest has {expected}, on disk is {found}"]
            info = json.loads(self.tokenizer_info_path.read_bytes())
            tokenizer = (self.tokenizer_dir / "tokenizer.json").read_bytes().decode()
        except (OSError, ValueError, RecursionError) as error:
            return [f"tokenizer.info_hash: manifest has {expected}, but the tokenizer can't be read: {error}"]
        if not isinstance(info, dict) or info.get("tokenizer_str") != tokenizer:
            return ["tokenizer/tokenizer.json differs from tokenizer_info.json's tokenizer_str: rebuild the info file"]
        return []

    def _check_schemas(self) -> list[str]:
        return [finding for name in sorted(self.manifest.schemas) for finding in self._check_schema(name)]

    def _check_schema(self, name: str) -> list[str]:
        try:
            json.loads(self.schema_text(name))
        except ReleaseError as error:
            return [str(error)]
        except (ValueError, RecursionError) as error:
            return [f"schemas.{name}: {self.manifest.schemas[name]} is no JSON: {error}"]
        return []
