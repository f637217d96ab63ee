"""Strict manifest validation: each error names the key, the given value and what is allowed."""

import json

import pytest

from llm_policy.release.manifest import MAX_TASKS, Manifest, ManifestError, parse_manifest, read_manifest
from llmstack.release.manifest_file import manifest_bytes
from tests.manifests import ENGINE_HASH, manifest, manifest_tree

LONG = "a" * 65


def tree_with(path, value):
    """The tests' manifest with the key at the dotted `path` set to `value`."""
    tree = manifest_tree()
    *sections, key = path.split(".")
    section = tree
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return tree


def error_text(tree):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(tree if isinstance(tree, (str, bytes)) else json.dumps(tree))
    return str(caught.value)


def test_a_manifest_of_only_the_required_keys_has_the_documented_defaults():
    found = manifest()
    assert found.engine.max_batch_size == 4
    assert found.thresholds.model_dump() == {
        "max_queue_delay_us": 2_500,
        "max_prompt_tokens": 4_096,
        "max_tokens": 6_000,
        "max_cost_usd": 0.10,
    }
    assert found.thresholds.max_cost_nano_usd == 100_000_000
    assert found.on_cost_breach == "notify"
    assert found.guidance.unenforced_keywords == "report"
    assert found.tasks["judge"].model_dump(exclude_none=True) == {"temperature": 0.1, "top_p": 0.9}


def test_a_written_manifest_reads_back_unchanged():
    tree = manifest_tree(schemas={"verdict": "schemas/verdict.json"})
    tree["tasks"]["judge"] |= {"schema_id": "verdict", "max_tokens": 64}
    first = parse_manifest(json.dumps(tree))
    assert parse_manifest(manifest_bytes(first)) == first
    assert manifest_bytes(parse_manifest(manifest_bytes(first))) == manifest_bytes(first)


def test_keys_are_written_in_the_order_of_the_fields():
    assert list(json.loads(manifest_bytes(manifest()))) == list(Manifest.model_fields)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("extra", 1, "extra: unknown key, allowed are engine, tokenizer, thresholds, prices, on_cost_breach, tasks, "),
        ("engine.name", "x", "engine.name: unknown key, allowed are hash, quantisation, model, max_batch_size"),
        ("tasks.judge.top_k", 3, "tasks.judge.top_k: unknown key, allowed are temperature, top_p, schema_id, max_tok"),
        (
            "guidance.limits.deep",
            3,
            "guidance.limits.deep: unknown key, allowed are max_bytes, max_depth, max_subschemas",
        ),
        ("engine.hash", "abc", "engine.hash: \"abc\": String should match pattern '^sha256:[0-9a-f]{64}$'"),
        ("engine.hash", ENGINE_HASH.upper(), 'engine.hash: "SHA256:AAAA'),
        ("engine.hash", ENGINE_HASH + "\n", 'engine.hash: "sha256:'),
        ("engine.hash", None, "engine.hash: null: Input should be a valid string"),
        ("engine.quantisation", "W4 A8", 'engine.quantisation: "W4 A8": String should match pattern'),
        ("engine.max_batch_size", True, "engine.max_batch_size: true: Input should be a valid integer"),
        ("engine.max_batch_size", 0, "engine.max_batch_size: 0: Input should be greater than or equal to 1"),
        ("thresholds.max_tokens", "6000", 'thresholds.max_tokens: "6000": Input should be a valid integer'),
        ("thresholds.max_tokens", 6000.0, "thresholds.max_tokens: 6000.0: Input should be a valid integer"),
        ("thresholds.max_queue_delay_us", -1, "thresholds.max_queue_delay_us: -1: Input should be greater than or eq"),
        ("thresholds.max_cost_usd", float("nan"), "thresholds.max_cost_usd: NaN: Input should be a finite number"),
        ("thresholds.max_cost_usd", float("inf"), "thresholds.max_cost_usd: Infinity: Input should be"),
        ("thresholds.max_cost_usd", 1e-10, "thresholds.max_cost_usd: 1e-10: 1e-10 is finer than 0.000000001 USD"),
        ("prices.input_usd_per_million", 0.0001, "prices.input_usd_per_million: 0.0001: 0.0001 is finer than 0.001"),
        ("prices.output_usd_per_million", -0.1, "prices.output_usd_per_million: -0.1: Input should be greater"),
        ("prices.output_usd_per_million", "0.1", 'prices.output_usd_per_million: "0.1": Input should be a valid numb'),
        ("on_cost_breach", "ignore", "on_cost_breach: \"ignore\": Input should be 'notify' or 'reject'"),
        ("tasks.two words", {"temperature": 1}, 'tasks.two words: "two words": String should match pattern'),
        ("tasks.none", {"temperature": 1}, "tasks.none: this name stands for requests without a task"),
        ("tasks.judge.temperature", 2.1, "tasks.judge.temperature: 2.1: Input should be less than or equal to 2"),
        ("tasks.judge.top_p", 0.0, "tasks.judge.top_p: 0.0: Input should be greater than 0"),
        ("tasks.judge.top_p", 1.1, "tasks.judge.top_p: 1.1: Input should be less than or equal to 1"),
        ("tasks.judge.max_tokens", 0, "tasks.judge.max_tokens: 0: Input should be greater than or equal to 1"),
        ("tasks.judge", [], "tasks.judge: []: Input should be an object"),
        ("schemas", {"a b": "x.json"}, 'schemas.a b: "a b": String should match pattern'),
        ("schemas", {LONG: "x.json"}, f'schemas.{LONG}: "{LONG}": String should match pattern'),
        ("schemas", {"a": ""}, 'schemas.a: "": String should match pattern'),
        ("guidance.max_compile_ms", 0, "guidance.max_compile_ms: 0: Input should be greater than or equal to 1"),
        ("guidance.allow_adhoc", "yes", 'guidance.allow_adhoc: "yes": Input should be a valid boolean'),
    ],
)
def test_an_invalid_value_is_reported_with_its_key_and_what_is_allowed(path, value, text):
    assert error_text(tree_with(path, value)).startswith(text)


@pytest.mark.parametrize("file", ["../other.json", "/etc/passwd", "schemas/../../x", "a//b", ".hidden", "a\0b", "a\\b"])
def test_a_schema_path_outside_the_release_is_rejected(file):
    assert error_text(manifest_tree(schemas={"a": file})).startswith("schemas.a: ")


@pytest.mark.parametrize(
    "path",
    ["engine", "engine.hash", "engine.quantisation", "engine.model", "tokenizer", "tokenizer.info_hash"],
)
def test_a_missing_key_of_engine_or_tokenizer_is_reported(path):
    check_missing(path)


@pytest.mark.parametrize(
    "path",
    ["prices", "prices.input_usd_per_million", "prices.output_usd_per_million", "tasks", "tasks.judge.temperature"],
)
def test_a_missing_price_or_task_is_reported(path):
    check_missing(path)


def check_missing(path):
    tree = manifest_tree()
    *sections, key = path.split(".")
    section = tree
    for name in sections:
        section = section[name]
    del section[key]
    assert error_text(tree) == f"{path}: required, missing"


def test_a_release_may_have_tasks_of_its_own_up_to_the_limit():
    tasks = manifest_tree()["tasks"] | {f"own-{number}": {"temperature": 0.5} for number in range(MAX_TASKS - 3)}
    assert list(manifest(tasks=tasks).tasks) == list(tasks)
    assert "tasks: " in error_text(manifest_tree(tasks=tasks | {"one-more": {"temperature": 0.5}}))


def test_all_three_tasks_are_required():
    tree = manifest_tree(tasks={"judge": {"temperature": 0.1}})
    assert error_text(tree) == (
        "tasks: generate_json, rank_candidates missing; all of generate_json, rank_candidates, judge are required"
    )


def test_a_task_may_only_name_a_registered_schema():
    tree = manifest_tree(schemas={"order": "schemas/order.json", "verdict": "schemas/verdict.json"})
    tree["tasks"]["judge"]["schema_id"] = "verdikt"
    assert error_text(tree) == "tasks.judge.schema_id: 'verdikt' is not in schemas (known: order, verdict)"


@pytest.mark.parametrize("max_prompt_tokens", [6_000, 6_001])
def test_a_prompt_limit_that_leaves_no_completion_is_rejected(max_prompt_tokens):
    assert error_text(tree_with("thresholds.max_prompt_tokens", max_prompt_tokens)) == (
        f"thresholds.max_prompt_tokens: {max_prompt_tokens} must be below thresholds.max_tokens 6000, "
        "which counts prompt and completion"
    )


def test_all_errors_are_reported_together():
    tree = manifest_tree(on_cost_breach="shrug")
    tree["engine"] = {"hash": "x", "quantisation": "w4a8", "model": "m"}
    del tree["prices"]
    keys = [line.split(":")[0] for line in error_text(tree).splitlines()]
    assert keys == ["engine.hash", "prices", "on_cost_breach"]


def test_a_duplicate_key_is_rejected():
    text = json.dumps(manifest_tree())[:-1] + ',"prices":{"input_usd_per_million":0,"output_usd_per_million":0}}'
    assert error_text(text) == "prices: appears twice in one object, allowed once"


@pytest.mark.parametrize("text", ["", "{", b"\xff", '{"a":' + "[" * 100_000])
def test_text_that_is_not_json_is_rejected(text):
    assert error_text(text).startswith("manifest: invalid JSON: ")


@pytest.mark.parametrize("text", ["[]", "null", '"manifest"'])
def test_json_that_is_not_an_object_is_rejected(text):
    assert error_text(text) == f"manifest: {text}: Input should be an object"


def test_a_missing_file_is_reported_with_its_path(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest\.json: No such file or directory"):
        read_manifest(tmp_path / "manifest.json")


def test_an_invalid_file_is_reported_with_its_path_and_errors(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).splitlines()[:2] == [f"{path}:", "engine: required, missing"]


def test_a_manifest_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        manifest().engine.hash = "sha256:" + "0" * 64
