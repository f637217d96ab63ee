"""`llmstack manifest`: build, verify, summary."""

import json

import pytest
from typer.testing import CliRunner

from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release.digest import engine_hash, file_digest
from llm_policy.release.release import Release
from llmstack.cli.manifest import app
from tests.releases import change_manifest, write_evaluation, write_release

ENGINE = ("--quantisation", "w4a8", "--model", "Qwen3-32B")
NEEDED = (*ENGINE, "--input-usd-per-million", "0.1", "--output-usd-per-million", "0.3")


@pytest.fixture
def directory(tmp_path):
    write_release(tmp_path / "release")
    return tmp_path / "release"


def invoke(*arguments, env=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def test_build_hashes_the_files_and_registers_the_schemas(directory):
    (directory / "manifest.json").unlink()
    built = invoke(
        "build", directory, *NEEDED, "--max-queue-delay-us", 900, "--on-cost-breach", "reject", "--no-allow-adhoc",
        "--task-schema", "judge=verdict", "--task-max-tokens", "judge=64",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    manifest = Release.open(directory).verify_files().manifest
    assert manifest.engine.hash == engine_hash(directory / "engine")
    assert manifest.tokenizer.info_hash == "sha256:" + file_digest(directory / "tokenizer_info.json")
    assert manifest.schemas == {"label": "schemas/label.json", "verdict": "schemas/verdict.json"}
    assert manifest.thresholds.max_queue_delay_us == 900
    assert manifest.on_cost_breach == "reject"
    assert manifest.guidance.allow_adhoc is False
    judge = {"temperature": 0.1, "top_p": 0.9, "schema_id": "verdict", "max_tokens": 64}
    assert manifest.tasks["judge"].model_dump() == judge


def test_a_release_may_have_tasks_of_its_own(directory):
    own = (
        "--task",
        "summarise=0.7",
        "--task",
        "label",
        "--task-schema",
        "label=label",
        "--task-max-tokens",
        "summarise=99",
    )
    assert invoke("build", directory, *NEEDED, "--force", *own).exit_code == 0
    tasks = Release.open(directory).manifest.tasks
    assert list(tasks) == ["generate_json", "rank_candidates", "judge", "summarise", "label"]
    assert tasks["summarise"].model_dump(exclude_none=True) == {"temperature": 0.7, "max_tokens": 99}
    assert tasks["label"].model_dump(exclude_none=True) == {"temperature": 0.0, "schema_id": "label"}


@pytest.mark.slow
def test_build_twice_gives_the_same_bytes(directory):
    assert invoke("build", directory, *NEEDED, "--force").exit_code == 0
    first = (directory / "manifest.json").read_bytes()
    assert invoke("build", directory, *NEEDED, "--force").exit_code == 0
    assert (directory / "manifest.json").read_bytes() == first


def test_build_keeps_an_existing_manifest_unless_forced(directory):
    before = (directory / "manifest.json").read_bytes()
    rejected = invoke("build", directory, *NEEDED)
    assert rejected.exit_code == 2
    assert "add --force to replace it" in rejected.stderr
    assert (directory / "manifest.json").read_bytes() == before


def test_a_forced_build_shows_the_differences(directory):
    built = invoke("build", directory, *NEEDED, "--max-tokens", 7_000, "--force")
    assert "thresholds.max_tokens" in built.stdout
    assert "7000" in built.stdout


def test_a_forced_build_replaces_a_broken_manifest(directory):
    (directory / "manifest.json").write_text("{")
    assert invoke("build", directory, *NEEDED, "--force").exit_code == 0
    assert Release.open(directory).check_files() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--max-prompt-tokens", 6_000), "thresholds.max_prompt_tokens: 6000 must be below"),
        (("--input-usd-per-million", 0.0001), "prices.input_usd_per_million: 0.0001"),
        (("--task-schema", "judge=nope"), "tasks.judge.schema_id: 'nope' is not in schemas (known: label, verdict)"),
        (("--task-schema", "judge"), "TASK=VALUE is needed"),
        (("--task-max-tokens", "chat=3"), "TASK=VALUE is needed"),
        (("--task-max-tokens", "judge=many"), "'many' is not a whole number"),
        (("--task", "poem=warm"), "'warm' is not a number"),
        (("--task", "two words"), 'tasks.two words: "two words"'),
    ],
)
def test_build_rejects_invalid_settings_and_writes_nothing(directory, options, text):
    before = (directory / "manifest.json").read_bytes()
    rejected = invoke("build", directory, *NEEDED, "--force", *options)
    assert rejected.exit_code == 2
    assert text in " ".join(rejected.stderr.replace("│", " ").split())
    assert (directory / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("missing", ["tokenizer_info.json", "engine/rank0.engine"])
def test_build_explains_how_to_add_a_missing_file(directory, missing):
    (directory / missing).unlink()
    (directory / "engine" / "config.json").unlink()
    rejected = invoke("build", directory, *NEEDED, "--force")
    assert rejected.exit_code == 2
    assert missing.split("/")[0] in rejected.stderr
    assert "llmstack tokenizer-info build" in rejected.stderr


def test_build_rejects_the_tokenizer_info_of_another_tokenizer(directory):
    path = directory / "tokenizer_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_token_ids": [0]}))
    rejected = invoke("build", directory, *NEEDED, "--force")
    assert rejected.exit_code == 2
    assert "stop_token_ids: file has [0], tokenizer has [256] (1 of 1)" in rejected.stderr


def test_verify_passes_an_unchanged_release(directory):
    assert invoke("verify", directory, "--against", directory).exit_code == 0


def test_verify_finds_changed_files(directory):
    (directory / "engine" / "rank0.engine").write_bytes(b"changed")
    found = invoke("verify", directory)
    assert found.exit_code == 1
    assert "engine.hash: manifest has sha256:" in found.stdout


def test_verify_lists_every_difference_with_other_manifests(directory, tmp_path):
    write_release(tmp_path / "other", on_cost_breach="reject")
    third = tmp_path / "third.json"
    third.write_bytes((directory / "manifest.json").read_bytes())
    found = invoke("verify", directory, "--against", tmp_path / "other", "--against", third, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout) == {
        "release": str(directory),
        "manifest_hash": Release.open(directory).manifest_hash,
        "files": [],
        "load": [],
        "against": [
            {
                "manifest": str(tmp_path / "other"),
                "differences": [{"key": "on_cost_breach", "ours": "notify", "theirs": "reject"}],
            },
            {"manifest": str(third), "differences": []},
        ],
        "agrees": False,
    }


def test_verify_shows_both_sides_of_a_difference(directory, tmp_path):
    write_release(tmp_path / "other", on_cost_breach="reject")
    found = invoke("verify", directory, "--against", tmp_path / "other")
    (line,) = [line for line in found.stdout.splitlines() if "on_cost_breach" in line]
    assert '"notify"' in line
    assert '"reject"' in line


def test_verify_never_cuts_a_hash_short(directory, tmp_path):
    other = write_release(tmp_path / "other").manifest
    change_manifest(tmp_path / "other", engine={**other.engine.model_dump(), "hash": "sha256:" + "1" * 64})
    found = invoke("verify", directory, "--against", tmp_path / "other")
    assert "…" not in found.stdout
    assert found.stdout.count("1") >= 64


@pytest.mark.parametrize("content", [None, "{}"])
def test_verify_exits_with_two_when_the_other_manifest_cant_be_read(directory, tmp_path, content):
    other = tmp_path / "other.json"
    if content:
        other.write_text(content)
    rejected = invoke("verify", directory, "--against", other)
    assert rejected.exit_code == 2
    assert "other.json" in rejected.stderr


def test_verify_takes_a_manifest_of_the_evaluation_side(tmp_path):
    directory = write_release(tmp_path / "release").directory
    assert invoke("verify", directory, "--against", write_evaluation(directory)).exit_code == 0
    assert invoke("verify", directory, "--against", write_evaluation(directory, on_cost_breach="reject")).exit_code == 1


def test_a_missing_release_says_what_to_do_next(tmp_path):
    rejected = invoke("summary", tmp_path / "nowhere")
    assert rejected.exit_code == 2
    assert "no release at" in rejected.stderr
    assert "LLMSTACK_RELEASE_DIR" in rejected.stderr


def test_summary_prints_what_the_evaluation_side_reads(directory):
    printed = json.loads(invoke("summary", directory, "--json").stdout)
    assert printed == PromptRuntimeManager(directory).summary()


def test_summary_shows_whole_hashes(directory):
    shown = invoke("summary", directory).stdout
    assert Release.open(directory).manifest.engine.hash in shown


def test_the_release_may_come_from_the_environment(directory):
    shown = invoke("summary", "--json", env={"LLMSTACK_RELEASE_DIR": str(directory)})
    assert json.loads(shown.stdout)["model"] == "Qwen3-32B"


def test_build_rejects_a_release_that_would_not_load_and_says_what_to_do(directory):
    before = (directory / "manifest.json").read_bytes()
    (directory / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    rejected = invoke("build", directory, *NEEDED, "--force")
    assert rejected.exit_code == 2
    assert "no chat template" in rejected.stderr
    assert "tokenizer/chat_template.jinja" in rejected.stderr
    assert (directory / "manifest.json").read_bytes() == before


def test_verify_finds_what_would_keep_a_release_from_loading(directory):
    (directory / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    (directory / "engine" / "rank0.engine").rename(directory / "engine" / "weights.bin")
    found = invoke("verify", directory, "--json")
    assert found.exit_code == 1
    template, weights = json.loads(found.stdout)["load"]
    assert "no chat template" in template["text"]
    assert "tokenizer/chat_template.jinja" in template["next_step"]
    assert "no *.safetensors" in weights["text"]
