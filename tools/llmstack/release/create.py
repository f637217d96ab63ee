"""Makes a release in the store from a Hugging Face model directory, checked as a server would load it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.release.build_manifest import Build
from llmstack.release.hugging_face import ModelDirectoryError, find_model_files
from llmstack.release.load_check import ReleaseWouldNotLoad, check_loads, check_tokenizer
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.release.publish import describe_build, write_build_manifest
from llmstack.release.store import ReleaseStore
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes

_TEMPLATE = "chat_template.jinja"
# Older versions of transformers wrote a processor's template as the only key of this file.
_TEMPLATE_JSON = "chat_template.json"


@dataclass(frozen=True)
class ModelSource:
    """What a release is made from.

    `schemas` has the file of each registered schema by its name. `chat_template` replaces the model's own.
    `links` makes hard links to the model's files in place of copies.
    """

    directory: Path
    schemas: Mapping[str, Path] = field(default_factory=dict)
    chat_template: Path | None = None
    links: bool = False


def create_release(
    store: ReleaseStore,
    name: str,
    source: ModelSource,
    settings: Mapping[str, Any],
    build: Build,
    report: Callable[[str], None] = lambda text: None,
) -> Release:
    """Write the release `name` into the store; nothing of it stays where an error is raised.

    `settings` as in `describe_release`. `report` receives a description of each step.

    Raises:
        ModelDirectoryError: the model's directory lacks a file.
        ReleaseWouldNotLoad: a server could not load the release.
        TokenizerInfoError: the tokenizer has no stop token.
        ManifestError: a setting is not allowed.
        StoreError: the name is taken or not allowed.
        OSError: a file can't be read or written.
    """
    target = store.new_directory(name)
    files = find_model_files(source.directory)
    temporary = target.with_name(f".{name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # The tokenizer first: what is wrong with it is said before gigabytes are copied.
        _place(files.tokenizer, temporary / "tokenizer", links=False)
        _write_template(source, temporary / "tokenizer")
        report("loading the tokenizer")
        if problem := check_tokenizer(temporary / "tokenizer")[1]:
            raise ReleaseWouldNotLoad([problem])
        (temporary / "tokenizer_info.json").write_bytes(info_bytes(build_info(temporary / "tokenizer")))
        _write_schemas(source.schemas, temporary / "schemas")
        report("linking the weights" if source.links else "copying the weights")
        _place(files.engine, temporary / "engine", links=source.links)
        report("hashing the engine")
        manifest = describe_release(temporary, settings)
        (temporary / "manifest.json").write_bytes(manifest_bytes(manifest))
        report("checking that it loads")
        check_loads(temporary, manifest)
        write_build_manifest(temporary, describe_build(Release.open(temporary), name, build, report))
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Release.open(target)


def _place(files: Sequence[Path], directory: Path, *, links: bool) -> None:
    """Copy or link `files`. A release holds regular files only: links, as in a download cache, are followed."""
    directory.mkdir(parents=True)
    for path in files:
        if not links:
            shutil.copyfile(path, directory / path.name)
            continue
        try:
            os.link(path.resolve(), directory / path.name)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            raise ModelDirectoryError(
                f"{path} can't be linked into {directory.parent.parent}: {error.strerror}",
                "leave out --link, which needs both on one file system and your own files",
            ) from None


def _write_template(source: ModelSource, tokenizer_dir: Path) -> None:
    """Write the given template, or the one of an old chat_template.json where the tokenizer has none."""
    path = tokenizer_dir / _TEMPLATE
    if source.chat_template is not None:
        path.write_bytes(source.chat_template.read_bytes())
        return
    old = source.directory / _TEMPLATE_JSON
    if path.exists() or not old.is_file():
        return
    try:
        template = json.loads(old.read_bytes())["chat_template"]
    except (ValueError, KeyError, TypeError):
        return  # the tokenizer's own configuration may have one
    path.write_text(str(template), encoding="utf-8")


def _write_schemas(schemas: Mapping[str, Path], directory: Path) -> None:
    if schemas:
        directory.mkdir()
    for name, path in schemas.items():
        text = path.read_bytes()
        try:
            json.loads(text)
        except ValueError as error:
            raise ModelDirectoryError(f"{path}: not JSON: {error}", "give --schema NAME=FILE a JSON Schema") from None
        (directory / f"{name}.json").write_bytes(text)
