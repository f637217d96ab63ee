"""Imports run one way: tools → python_models, llm_policy/triton → llm_policy/steps → rules → errors."""

from pathlib import Path

import pytest

from tests.import_graph import ROOT, direct_imports, transitive_imports

MODELS = ROOT / "python_models"
POLICY = sorted((MODELS / "llm_policy").rglob("*.py"))
ENGINE = sorted((MODELS / "portable_engine").rglob("*.py"))
STUBS = sorted((ROOT / "model_repository").glob("p*process/*/model.py"))

TRITON = "triton_python_backend_utils"
HEAVY = {"torch", "xgrammar", "transformers"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def packages(names: frozenset[str]) -> set[str]:
    return {name.split(".", 1)[0] for name in names}


def rank(name: str) -> int:
    """How far from the errors a module of `llm_policy` is."""
    for prefix, height in (("llm_policy.triton", 3), ("llm_policy.steps", 2), ("llm_policy.errors", 0)):
        if f"{name}.".startswith(f"{prefix}."):
            return height
    return 1


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(MODELS).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", POLICY, ids=name_of)
def test_the_policy_imports_downwards(path):
    own = rank(module_name(path))
    ours = {name for name in direct_imports(path) if name.startswith("llm_policy.")}
    assert [name for name in sorted(ours) if rank(name) > own] == []


@pytest.mark.parametrize("path", POLICY, ids=name_of)
def test_the_policy_knows_neither_engine_nor_tools(path):
    assert not packages(direct_imports(path)) & {"portable_engine", "llmstack", "tests"}


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_the_engine_knows_neither_policy_nor_tools(path):
    assert not packages(direct_imports(path)) & {"llm_policy", "llmstack", "tests"}


@pytest.mark.parametrize("path", [p for p in POLICY if p.parent.name != "triton"], ids=name_of)
def test_only_the_adapter_knows_triton(path):
    assert TRITON not in direct_imports(path)


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")), ids=name_of)
def test_no_tool_imports_tests(path):
    assert "tests" not in packages(direct_imports(path))


@pytest.mark.parametrize("path", STUBS, ids=name_of)
def test_no_stub_of_the_policy_reaches_a_heavy_package(path):
    assert not packages(transitive_imports(path)) & HEAVY


def test_there_is_something_to_check():
    assert len(POLICY) > 10
    assert len(STUBS) == 2
    assert "fastokens" in packages(transitive_imports(STUBS[0])) or "tokenizers" in packages(transitive_imports(STUBS[0]))
