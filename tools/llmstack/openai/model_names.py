"""The names under which a release's model can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llm_policy.release.manifest import read_manifest
from llmstack.openai.error import ApiError

ENSEMBLE = "ensemble"


class ModelNames(NamedTuple):
    """The model of a release and its tasks; without a release, `model` is empty and any name is taken.

    Every server checks the engine by X-Engine-Hash, so a name decides nothing but the task.
    """

    model: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """What `/v1/models` lists."""
        model = self.model or ENSEMBLE
        return [model, *(f"{model}:{task}" for task in self.tasks)]

    def task_of(self, name: str) -> str:
        """The task that a request's model names; empty for the model alone.

        Names are compared without case; `qwen3-32b` is `Qwen/Qwen3-32B` too.

        Raises:
            ApiError: `model_not_found`.
        """
        if self.is_model(name):
            return ""
        model, separator, task = name.rpartition(":")
        if separator and task and self.is_model(model):
            return task
        if not self.model and not separator:
            return ""
        known = ", ".join(self.ids)
        raise ApiError("model_not_found", f"the model {name[:128]!a} does not exist (known: {known})", "model")

    def is_model(self, name: str) -> bool:
        """Whether `name`, without a task, is this model."""
        if not self.model:
            return ":" not in name
        full = self.model.lower()
        return name.lower() in (full, full.rpartition("/")[2], ENSEMBLE)


def read_model_names(release_dir: Path | None) -> ModelNames:
    """The names of the release at `release_dir`.

    Raises:
        OSError: the manifest can't be read.
        ManifestError: it is invalid.
    """
    if release_dir is None:
        return ModelNames()
    manifest, _ = read_manifest(release_dir / "manifest.json")
    return ModelNames(manifest.engine.model, tuple(manifest.tasks))
