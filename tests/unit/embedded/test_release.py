"""The embedded release: the same bytes from one seed or checkpoint, Qwen3's rules, schemas with finite answers."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from embedded_model import batches
from embedded_model.checkpoint import Checkpoint
from embedded_model.cli import app
from embedded_model.model_card import results_table
from embedded_model.release import MAX_ANSWER_TOKENS, build_release
from embedded_model.schemas import SCHEMAS
from embedded_model.tokenizer import CHAT_TEMPLATE, PLAIN_TOKENS, SPECIAL_TOKENS, VOCAB_SIZE
from llm_policy.guidance.compile.worker import PLANNERS
from llm_policy.release.release import Release
from llmstack.tokenizer.tokenizer_info import check_info

COMMITTED = Path(__file__).parents[3] / "artifacts" / "releases" / "embedded"
TEXTS = (
    "Order 12, please: ship it to Ada's house in Lisbon.",
    "  spaces   and\ttabs\r\n\r\nlines \n",
    "订单 🙂 Größe à la carte ½ e\u0301 \u200d\x00\x7f",
    '{"a": [1, 2.50, null, true], "b": "\\u00e9"}',
    "they'LL don't we've 12345 __init__ <p class=\"x\">",
)


def files(directory):
    """What a build makes: the build manifest says when it was made."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "build_manifest.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return build_release(tmp_path_factory.mktemp("embedded"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(release):
    return Tokenizer.from_file(str(release.tokenizer_dir / "tokenizer.json"))


def test_the_same_seed_gives_the_same_bytes(release, tmp_path):
    assert files(build_release(tmp_path, seed=0).directory) == files(release.directory)


def test_the_committed_release_is_what_the_command_builds_from_its_checkpoint(tmp_path):
    build_release(tmp_path, checkpoint=Checkpoint.read(COMMITTED))
    assert files(COMMITTED) == files(tmp_path)


def test_the_committed_model_was_trained_on_the_data_that_the_committed_code_makes():
    record = Checkpoint.read(COMMITTED).record
    batches.use_tokenizer(str(COMMITTED / "tokenizer" / "tokenizer.json"))
    digest = hashlib.sha256()
    for batch in batches.make_step(record.seed, 0):
        digest.update(batch.ids.tobytes())
    assert digest.hexdigest() == record.first_data_sha256


def test_the_committed_figures_are_in_the_card_and_of_this_engine():
    figures = (COMMITTED.parents[2] / "docs" / "figures" / "evaluation.json").read_bytes()
    assert (COMMITTED / "evaluation.json").read_bytes() == figures
    report = json.loads(figures)
    assert report["run"]["engine_hash"] == Release.open(COMMITTED).manifest.engine.hash
    for page in (COMMITTED / "README.md", COMMITTED.parents[2] / "docs" / "embedded_model.md"):
        assert results_table(report) in page.read_text()
        assert results_table(report["unfamiliar"]) in page.read_text()


def test_a_checkpoint_of_another_tokenizer_is_refused(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(record=checkpoint.record.model_copy(update={"tokenizer_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"trained with tokenizer.json 000"):
        build_release(tmp_path, checkpoint=other)


def test_a_checkpoint_of_other_shapes_is_refused(release, tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(weights=(release.engine_path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="has shape"):
        build_release(tmp_path, checkpoint=other)


def test_an_evaluation_of_another_engine_is_refused(tmp_path):
    other = Checkpoint.read(COMMITTED)._replace(evaluation=b'{"run": {"engine_hash": "sha256:0"}, "unfamiliar": {}}')
    with pytest.raises(ValueError, match="evaluation is of engine sha256:0"):
        build_release(tmp_path, checkpoint=other)


def test_build_refuses_an_evaluation_that_is_none(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"run": {}}')
    command = ["build", "--checkpoint", str(COMMITTED), "--output", str(tmp_path / "release")]
    refused = CliRunner().invoke(app, [*command, "--evaluation", str(tmp_path / "evaluation.json")])
    assert refused.exit_code == 2
    assert "is no evaluation" in refused.stderr


def test_weights_that_the_record_does_not_tell_of_are_no_checkpoint(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    checkpoint._replace(weights=checkpoint.weights[:-1] + b"\x00").write(tmp_path)
    with pytest.raises(ValueError, match="weights_sha256"):
        Checkpoint.read(tmp_path)


def test_the_committed_model_was_trained_with_the_tokenizer_that_the_command_makes(release):
    record = Checkpoint.read(COMMITTED).record
    tokenizer = (release.tokenizer_dir / "tokenizer.json").read_bytes()
    assert hashlib.sha256(tokenizer).hexdigest() == record.tokenizer_sha256


def test_the_committed_model_has_at_most_16_mb():
    assert (COMMITTED / "engine" / "model.safetensors").stat().st_size <= 16_000_000


def test_current_is_a_relative_link_to_a_release():
    current = COMMITTED.parents[1] / "current"
    assert not current.readlink().is_absolute()
    assert Release.open(current).check_files() == []


def test_another_seed_gives_another_engine_with_the_same_tokenizer(release, tmp_path):
    other = build_release(tmp_path, seed=1)
    assert other.manifest.engine.hash != release.manifest.engine.hash
    assert other.manifest.tokenizer == release.manifest.tokenizer


def test_every_task_names_a_registered_schema_and_a_completion_length(release):
    for task in release.manifest.tasks.values():
        assert task.schema_id in SCHEMAS
        assert task.max_tokens == MAX_ANSWER_TOKENS


@pytest.mark.parametrize("trained", [False, True])
def test_the_model_card_says_that_the_label_is_not_the_weights(release, trained):
    card = ((COMMITTED if trained else release.directory) / "README.md").read_text()
    assert "bfloat16, not quantised" in card
    assert "w4a8" in card


def test_the_release_stays_small(release):
    assert sum(map(len, files(release.directory).values())) < 4 * 2**20


def test_the_tokenizer_info_is_that_of_the_tokenizer(release):
    assert check_info(release.tokenizer_info_path, release.tokenizer_dir) == []


def test_the_vocabulary_is_full_and_ends_with_qwens_added_tokens(tokenizer):
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(VOCAB_SIZE))
    added = (*SPECIAL_TOKENS, *PLAIN_TOKENS)
    assert [vocab[text] for text in added] == list(range(VOCAB_SIZE - len(added), VOCAB_SIZE))


def test_control_tokens_are_special_and_thinking_marks_are_plain(tokenizer):
    special = {added.content: added.special for added in tokenizer.get_added_tokens_decoder().values()}
    assert special["<|im_end|>"]
    assert not special["<think>"]
    assert not special["<tool_call>"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding_in_its_composed_form(tokenizer, text):
    composed = text.replace("e\u0301", "\u00e9")
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == composed


def test_every_byte_has_a_token(tokenizer):
    text = "".join(map(chr, range(256))) + "\U0001f9ff\uffff"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_prose_takes_a_token_for_some_letters_not_for_each(tokenizer):
    assert len(tokenizer.encode(TEXTS[0]).ids) < len(TEXTS[0]) / 2


def test_digits_stand_alone_as_in_qwens_vocabulary(tokenizer):
    assert len(tokenizer.encode("2026").ids) == 4


def test_build_refuses_a_directory_with_something_in_it(tmp_path):
    (tmp_path / "keep").touch()
    runner = CliRunner()
    assert "add --force" in runner.invoke(app, ["build", "--output", str(tmp_path)]).stderr
    assert "holds no release" in runner.invoke(app, ["build", "--output", str(tmp_path), "--force"]).stderr
    assert (tmp_path / "keep").exists()


def test_build_refuses_a_link_and_says_where_it_leads(tmp_path):
    build_release(tmp_path / "old", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "old")
    refused = CliRunner().invoke(app, ["build", "--output", str(tmp_path / "link"), "--force"])
    assert refused.exit_code == 2
    assert str(tmp_path / "old") in refused.stderr


def test_a_forced_build_that_fails_leaves_the_old_release(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(record=checkpoint.record.model_copy(update={"tokenizer_sha256": "0" * 64}))
    (tmp_path / "checkpoint").mkdir()
    other.write(tmp_path / "checkpoint")
    old = tmp_path / "release"
    before = files(build_release(old, seed=1).directory)
    command = ["build", "--checkpoint", str(tmp_path / "checkpoint"), "--output", str(old), "--force"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "doesn't fit" in refused.stderr
    assert files(old) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "release"]


def test_a_forced_build_replaces_a_release_and_leaves_nothing_old(release, tmp_path):
    build_release(tmp_path, seed=1)
    (tmp_path / "engine" / "old.bin").touch()
    built = CliRunner().invoke(app, ["build", "--output", str(tmp_path), "--force"])
    assert built.exit_code == 0, built.output
    assert release.manifest.engine.hash in built.stdout
    assert files(tmp_path) == files(release.directory)


# From here on with the libraries that the engine brings: transformers, torch and XGrammar.


def test_transformers_reads_the_tokenizer_the_same_way(release, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(release.tokenizer_dir))
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for text in TEXTS:
        assert theirs.encode(text) == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, "<|im_start|>assistant\n"),
        ({"enable_thinking": True}, "<|im_start|>assistant\n"),
        ({"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ({"add_generation_prompt": False}, ""),
    ],
)
def test_the_chat_template_renders_qwen3s_format(release, options, ending):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(release.tokenizer_dir))
    assert theirs.chat_template == CHAT_TEMPLATE
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Bye"},
    ]
    rendered = theirs.apply_chat_template(messages, tokenize=False, **{"add_generation_prompt": True, **options})
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n" + ending
    )


@pytest.fixture(scope="module")
def model(release):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        str(release.engine_path), dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    assert loaded.dtype == torch.bfloat16
    return loaded.float()


def test_the_model_ends_answers_with_the_tokenizers_eos(model, tokenizer):
    assert model.generation_config.eos_token_id == tokenizer.token_to_id("<|im_end|>")
    assert model.config.vocab_size == VOCAB_SIZE


def test_the_model_holds_the_largest_budget(model, release):
    assert model.config.max_position_embeddings >= release.manifest.thresholds.max_tokens


def test_the_answer_depends_on_the_first_token_of_a_long_prompt(model):
    import torch

    prompts = torch.arange(1, 65).repeat(8, 1)
    prompts[:, 0] = torch.arange(100, 108)
    with torch.no_grad():
        next_tokens = model(prompts).logits[:, -1].argmax(-1)
    assert len(set(next_tokens.tolist())) > 1


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_any_answer_under_a_registered_schema_is_short_and_valid(release, name):
    xgrammar = pytest.importorskip("xgrammar")
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    info = json.loads(release.tokenizer_info_path.read_bytes())
    tokens = xgrammar.TokenizerInfo(
        info["encoded_vocab"], xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=info["stop_token_ids"]
    )
    schema = release.schema_text(name)
    guide = PLANNERS["json_schema"](schema, release.manifest.guidance.limits).guide
    grammar = xgrammar.GrammarCompiler(tokens, max_threads=1).compile_grammar(guide)
    validator = jsonschema_rs.validator_for(json.loads(schema))
    choice, vocab = random.Random(0), tokens.decoded_vocab
    for _ in range(60):
        answer = _walk(xgrammar, grammar, vocab, choice)
        assert len(answer) <= MAX_ANSWER_TOKENS
        text = b"".join(vocab[token_id] for token_id in answer[:-1])
        assert validator.is_valid(json.loads(text)), text


def _walk(xgrammar, grammar, vocab, choice):
    """Tokens of one answer that the grammar allows, half of the time the shortest ones: the worst case."""
    shortest = choice.random() < 0.5
    matcher = xgrammar.GrammarMatcher(grammar)
    bitmask = xgrammar.allocate_token_bitmask(1, len(vocab))
    answer = []
    while not matcher.is_terminated():
        assert len(answer) <= MAX_ANSWER_TOKENS
        matcher.fill_next_token_bitmask(bitmask)
        words = bitmask[0].tolist()
        allowed = [32 * i + bit for i, word in enumerate(words) if word for bit in range(32) if word >> bit & 1]
        if shortest:
            least = min(len(vocab[token_id]) for token_id in allowed)
            allowed = [token_id for token_id in allowed if len(vocab[token_id]) == least]
        answer.append(choice.choice(allowed))
        assert matcher.accept_token(answer[-1])
    return answer
