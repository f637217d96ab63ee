"""A release directory, and the check that its files are those that its manifest describes.

<release>/manifest.json  engine/ (or engine.plan)  tokenizer/  tokenizer_info.json  schemas/…
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_policy.release.digest import engine_fingerprint, engine_hash, file_digest
from llm_policy.release.manifest import Manifest, ManifestError, read_manifest

# Environment variable with which a parent process passes on the fingerprint of a release that it has verified.
RELEASE_FINGERPRINT = "LLMSTACK_RELEASE_FINGERPRINT"


class ReleaseError(ValueError):
    """The release can't be used; if its files differ from its manifest, the text lists every difference."""


@dataclass(frozen=True)
class Release:
    """One release on disk.

    `manifest_hash` is the SHA-256 of manifest.json's bytes. `fingerprint` is set by `verify_files`.
    """

    directory: Path
    manifest: Manifest
    manifest_hash: str
    fingerprint: str = field(default="", compare=False)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Release:
        """Read the manifest of the release at `directory`; does not check its files.

        Raises:
            ReleaseError: there is no such release, or its manifest is invalid.
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
        """The engine file `engine.plan` if it exists, else the engine directory."""
        plan = self.directory / "engine.plan"
        return plan if plan.exists() else self.directory / "engine"

    @property
    def tokenizer_dir(self) -> Path:
        """The Hugging Face tokenizer directory."""
        return self.directory / "tokenizer"

    @property
    def tokenizer_info_path(self) -> Path:
        """The tokenizer-info file that the engine's guided decoding reads."""
        return self.directory / "tokenizer_info.json"

    def schema_text(self, name: str) -> str:
        """The text of the registered schema `name`.

        Raises:
            ReleaseError: there is no such schema, or its file is missing, outside the release or not UTF-8.
        """
        if name not in self.manifest.schemas:
            known = ", ".join(sorted(self.manifest.schemas)) or "none"
            raise ReleaseError(f"schemas.{name}: not in the manifest (known: {known})")
        file = self.manifest.schemas[name]
        try:
            path = (self.directory / file).resolve()
            if not path.is_relative_to(self.directory):
                raise ReleaseError(f"schemas.{name}: {file} is outside the release")
            return path.read_bytes().decode()
        except OSError as error:
            raise ReleaseError(f"schemas.{name}: {file}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ReleaseError(f"schemas.{name}: {file}: byte {error.start} is not UTF-8") from None

    def check_files(self) -> list[str]:
        """Every difference between the files on disk and the manifest; an empty list means that they agree."""
        return [*self._check_engine(), *self._check_tokenizer(), *self._check_schemas()]

    def verify_files(self, known_fingerprint: str = "") -> Release:
        """Check all files against the manifest; returns this release with its `fingerprint`.

        Reading an engine takes minutes. With the fingerprint of an earlier call, in any process, it is skipped if the
        manifest still names the same hash and no engine file was written or replaced since.

        Raises:
            ReleaseError: lists the findings of `check_files`.
        """
        # Computed before the engine is read: a write during the read then gives another fingerprint next time.
        current = self._engine_fingerprint()
        is_known = known_fingerprint != "" and known_fingerprint == current
        findings = [*self._check_tokenizer(), *self._check_schemas()] if is_known else self.check_files()
        if findings:
            raise ReleaseError("\n".join(findings))
        return replace(self, fingerprint=current)

    def _engine_fingerprint(self) -> str:
        """Combines the manifest's engine hash with the fingerprint of the files; empty if they can't be examined."""
        try:
            return f"{self.manifest.engine.hash} {engine_fingerprint(self.engine_path)}"
        except OSError:
            return ""

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
            return [f"schemas.{name}: {self.manifest.schemas[name]} is not JSON: {error}"]
        return []
