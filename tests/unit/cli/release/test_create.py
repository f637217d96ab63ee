"""`llmstack release create`: one command makes a release that a server would load, or says what is missing."""

import json

import pytest
from typer.testing import CliRunner

from llm_policy.release.release import Release
from llmstack.cli.app import app
from llmstack.release.build_manifest import check_published, read_build_manifest
from llmstack.release.load_check import find_load_problems
from llmstack.tokenizer.tokenizer_info import check_info
from tests.releases import BYTE_TOKENIZER, CHAT_TEMPLATE, write_tokenizer

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 512,
    "max_position_embeddings": 2_000,
    "torch_dtype": "bfloat16",
}
TOKENIZER_CONFIG = {"eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}


@pytest.fixture
def model(tmp_path):
    directory = write_tokenizer(tmp_path / "model", BYTE_TOKENIZER, tokenizer_config=TOKENIZER_CONFIG, config=CONFIG)
    (directory / "generation_config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "README.md").write_text("not a part of the release")
    return directory


def create(model, *options, exit_code=0):
    arguments = ["release", "create", "r1", "--from-hf", model, "--artifacts", model.parent / "artifacts", *options]
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result


def release_of(model):
    return Release.open(model.parent / "artifacts" / "releases" / "r1")


def change_config(directory, name, **changes):
    path = directory / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_one_command_makes_a_published_release_that_would_load(model, tmp_path):
    schema = tmp_path / "verdict.json"
    schema.write_text('{"enum": ["pass", "fail"]}')
    created = create(model, "--schema", f"verdict={schema}", "--task-schema", "judge=verdict")
    release = release_of(model).verify_files()
    assert find_load_problems(release.directory, release.manifest) == []
    assert check_info(release.tokenizer_info_path, release.tokenizer_dir) == []
    assert read_build_manifest(release.directory).release == "r1"
    assert check_published(release.directory) == []
    assert release.manifest.tasks["judge"].schema_id == "verdict"
    assert {path.name for path in release.engine_path.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip
    assert f"llmstack serve --release {release.directory}" in created.stdout


def test_the_defaults_follow_the_model_and_are_printed(model):
    created = create(model)
    manifest = release_of(model).manifest
    assert (manifest.thresholds.max_tokens, manifest.thresholds.max_prompt_tokens) == (2_000, 1_400)
    assert (manifest.engine.model, manifest.engine.quantisation) == ("r1", "bf16")
    for text in ("1400 prompt tokens, 2000 with", "quantisation bf16", "0.1 and 0.3 USD per million", "none"):
        assert text in created.stdout


def test_the_label_of_quantised_weights_is_their_number_of_bits(model):
    pytest.importorskip("transformers")  # it knows which models the portable engine can run
    group = {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8}}
    change_config(
        model, "config", quantization_config={"quant_method": "compressed-tensors", "config_groups": {"g": group}}
    )
    created = create(model)
    assert release_of(model).manifest.engine.quantisation == "w4a8"
    assert "--engine vllm" in created.output


def test_links_share_the_weights_with_the_model(model):
    create(model, "--link")
    assert (release_of(model).engine_path / "model.safetensors").samefile(model / "model.safetensors")


def test_files_of_a_download_cache_are_copied_through_their_links(model, tmp_path):
    (model / "model.safetensors").rename(tmp_path / "blob")
    (model / "model.safetensors").symlink_to(tmp_path / "blob")
    create(model, "--link")
    weights = release_of(model).engine_path / "model.safetensors"
    assert not weights.is_symlink()
    assert weights.samefile(tmp_path / "blob")


def test_only_the_shards_of_the_index_are_taken(model):
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "consolidated.safetensors").write_bytes(b"the same weights again")
    index = {"weight_map": {"norm": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    create(model)
    assert not (release_of(model).engine_path / "consolidated.safetensors").exists()


def test_an_architecture_that_the_portable_engine_lacks_is_a_warning(model):
    pytest.importorskip("transformers")  # it knows which models the portable engine can run
    change_config(model, "config", architectures=["NewForCausalLM"], model_type="brand_new")
    created = create(model)
    assert "--engine embedded may not run NewForCausalLM" in created.stderr
    assert "llmstack serve --engine vllm" in created.stdout


def test_a_given_chat_template_replaces_a_missing_one(model, tmp_path):
    change_config(model, "tokenizer_config", chat_template=None)
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)
    create(model, "--chat-template", template)
    assert (release_of(model).tokenizer_dir / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_the_template_of_an_old_processor_is_taken_over(model):
    change_config(model, "tokenizer_config", chat_template=None)
    (model / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    create(model)
    assert (release_of(model).tokenizer_dir / "chat_template.jinja").read_text() == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("tokenizer.json", "save_pretrained"),
        ("tokenizer_config.json", "copy it from the model's source"),
        ("config.json", "give --from-hf a Hugging Face model directory"),
        ("model.safetensors", "convert the weights"),
    ],
)
def test_a_missing_file_is_named_with_the_next_step(model, name, next_step):
    (model / name).unlink()
    rejected = create(model, exit_code=2)
    assert name.replace("model.", "*.") in rejected.stderr.replace("model.safetensors", "*.safetensors")
    assert next_step in rejected.stderr
    assert not (model.parent / "artifacts" / "releases" / "r1").exists()


@pytest.mark.parametrize(
    ("name", "changes", "reason", "next_step"),
    [
        ("tokenizer_config", {"chat_template": None}, "no chat template", "--chat-template FILE"),
        ("tokenizer_config", {"chat_template": "{% if %}"}, "chat template does not compile", "--chat-template FILE"),
        (
            "tokenizer_config",
            {"chat_template": "{{ raise_exception('no') }}"},
            "does not take a user's message",
            "--chat-template FILE",
        ),
        ("tokenizer_config", {"eos_token": None}, "eos_token is not an added token", "set eos_token"),
        ("tokenizer", {"decoder": {"type": "Metaspace"}}, "decoder is Metaspace", "byte-level BPE only"),
        ("config", {"vocab_size": 10}, "ids up to 256, the model's vocab_size is 10", "from the same source"),
    ],
)
def test_what_would_keep_it_from_loading_is_rejected_and_leaves_no_files(model, name, changes, reason, next_step):
    change_config(model, name, **changes)
    rejected = create(model, exit_code=2)
    assert reason in rejected.stderr
    assert next_step in rejected.stderr
    assert list((model.parent / "artifacts" / "releases").iterdir()) == []


def test_a_schema_that_the_server_would_reject_is_named(model, tmp_path):
    schema = tmp_path / "never.json"
    schema.write_text("false")
    rejected = create(model, "--schema", f"never={schema}", exit_code=2)
    assert "registered schema never: schema_invalid" in rejected.stderr


def test_a_taken_name_is_rejected(model):
    create(model)
    assert "already has a release 'r1'" in create(model, exit_code=2).stderr
