"""The policy's modules that need Triton's Python backend, imported with its stand-in; models with their own ledger."""

import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_policy.guidance.compile import compile_queue, sandbox
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests import pb_utils
from tests.unit.llm_policy.triton.policy_models import CANARY_TOKEN, release_with

NAMES = ("adapter", "error_responses", "tensor_cache", "preprocess_model", "postprocess_model")


@pytest.fixture(scope="module")
def triton() -> Iterator[SimpleNamespace]:
    """The modules under test by name."""
    with pb_utils.installed(*(f"llm_policy.triton.{name}" for name in NAMES)) as modules:
        yield SimpleNamespace(**dict(zip(NAMES, modules, strict=True)))


@pytest.fixture(scope="session")
def guide_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first model leaves its compiled guides for the next ones."""
    return tmp_path_factory.mktemp("guides") / "guides.db"


@pytest.fixture(scope="module")
def start_policy(triton: SimpleNamespace, guide_cache: Path) -> Callable[..., Any]:
    """A context manager that starts both models on a state directory and stops them at its end."""
    if find_spec("xgrammar") is None:
        pytest.skip("the guide compiler needs xgrammar")

    @contextmanager
    def start(state_dir: Path, release_dir: Path = DEFAULT_RELEASE_DIR) -> Iterator[SimpleNamespace]:
        if guide_cache.exists():
            copy_database(guide_cache, state_dir / guide_cache.name)
        with pytest.MonkeyPatch.context() as patch:
            # On a busy machine a sandbox is so slow that a client's guide would expire first.
            patch.setattr(compile_queue, "MAX_WAIT_S", sandbox.START_TIMEOUT_S)
            patch.setenv("LLMSTACK_RELEASE_DIR", str(release_dir))
            patch.setenv("LLMSTACK_STATE_DIR", str(state_dir))
            patch.setenv("LLMSTACK_BOOT_ID", "boot-1")
            patch.setenv("LLMSTACK_CANARY_TOKEN", CANARY_TOKEN)
            preprocess = triton.preprocess_model.PreprocessModel()
            preprocess.initialize({})
            postprocess = triton.postprocess_model.PostprocessModel()
            postprocess.initialize({})
            if not guide_cache.exists():
                copy_database(state_dir / guide_cache.name, guide_cache)
            yield SimpleNamespace(preprocess=preprocess, postprocess=postprocess, state_dir=state_dir)
            preprocess.finalize()
            postprocess.finalize()
        gc.unfreeze()  # the models froze everything that was loaded

    return start


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


@pytest.fixture(scope="module")
def policy(start_policy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Both models, shared by the tests of a file; most of their requests stay open, so the queue has room for all."""
    release = release_with(tmp_path_factory.mktemp("release"), max_queue_tokens=1_000_000)
    with start_policy(tmp_path_factory.mktemp("state"), release) as models:
        yield models


@pytest.fixture
def own_policy(start_policy: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """Both models on a ledger that one test may damage."""
    with start_policy(tmp_path) as models:
        yield models
