"""Building the embedded release is reproducible, and the committed release is what this code builds."""

import hashlib
import json

import pytest

from embedded_model.release.builder import MAX_ANSWER_TOKENS, MAX_QUEUE_DELAY_US, build_release
from embedded_model.release.model_card import results_table
from embedded_model.release.schemas import SCHEMAS
from embedded_model.training import batches
from embedded_model.training.checkpoint import Checkpoint
from llm_policy.release.manifest import Thresholds
from llm_policy.release.release import Release
from llmstack.tokenizer.tokenizer_info import check_info
from tests.import_graph import ROOT
from tests.unit.embedded_model.release_files import COMMITTED, read_files


def test_the_same_seed_gives_the_same_bytes(release, tmp_path):
    assert read_files(build_release(tmp_path, seed=0).directory) == read_files(release.directory)


def test_the_committed_release_is_built_from_its_own_checkpoint(tmp_path):
    build_release(tmp_path, checkpoint=Checkpoint.read(COMMITTED))
    assert read_files(COMMITTED) == read_files(tmp_path)


def test_the_queue_delay_threshold_is_the_release_s_own_and_the_default_is_the_guide_s():
    assert Release.open(COMMITTED).manifest.thresholds == Thresholds(max_queue_delay_us=MAX_QUEUE_DELAY_US)
    assert Thresholds().max_queue_delay_us == 2_500


def test_the_code_generates_the_training_data_of_the_committed_model():
    record = Checkpoint.read(COMMITTED).record
    batches.load_tokenizer(str(COMMITTED / "tokenizer" / "tokenizer.json"))
    digest = hashlib.sha256()
    for batch in batches.generate_step(record.seed, 0):
        digest.update(batch.ids.tobytes())
    assert digest.hexdigest() == record.first_data_sha256


def test_the_committed_results_are_of_this_engine_and_in_the_card():
    results = (ROOT / "docs" / "results" / "evaluation.json").read_bytes()
    assert (COMMITTED / "evaluation.json").read_bytes() == results
    report = json.loads(results)
    assert report["run"]["engine_hash"] == Release.open(COMMITTED).manifest.engine.hash
    for page in (COMMITTED / "README.md", ROOT / "docs" / "embedded_model.md"):
        assert results_table(report) in page.read_text()
        assert results_table(report["out_of_distribution"]) in page.read_text()


@pytest.mark.slow
def test_a_checkpoint_of_another_tokenizer_is_rejected(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(record=checkpoint.record.model_copy(update={"tokenizer_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"trained with tokenizer.json 000"):
        build_release(tmp_path, checkpoint=other)


@pytest.mark.slow
def test_a_checkpoint_of_other_shapes_is_rejected(release, tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(weights=(release.engine_path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="has shape"):
        build_release(tmp_path, checkpoint=other)


@pytest.mark.slow
def test_an_evaluation_of_another_engine_is_rejected(tmp_path):
    other = Checkpoint.read(COMMITTED)._replace(
        evaluation=b'{"run": {"engine_hash": "sha256:0"}, "out_of_distribution": {}}'
    )
    with pytest.raises(ValueError, match="evaluation is of engine sha256:0"):
        build_release(tmp_path, checkpoint=other)


def test_weights_with_another_hash_than_the_record_are_no_checkpoint(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    checkpoint._replace(weights=checkpoint.weights[:-1] + b"\x00").write(tmp_path)
    with pytest.raises(ValueError, match="weights_sha256"):
        Checkpoint.read(tmp_path)


def test_the_committed_model_was_trained_with_the_tokenizer_of_this_code(release):
    record = Checkpoint.read(COMMITTED).record
    tokenizer = (release.tokenizer_dir / "tokenizer.json").read_bytes()
    assert hashlib.sha256(tokenizer).hexdigest() == record.tokenizer_sha256


def test_the_committed_model_has_at_most_16_mb():
    assert (COMMITTED / "engine" / "model.safetensors").stat().st_size <= 16_000_000


def test_current_is_a_relative_link_to_a_release():
    current = COMMITTED.parents[1] / "current"
    assert not current.readlink().is_absolute()
    assert Release.open(current).check_files() == []


@pytest.mark.slow
def test_the_seed_changes_the_engine_and_not_the_tokenizer(release, tmp_path):
    other = build_release(tmp_path, seed=1)
    assert other.manifest.engine.hash != release.manifest.engine.hash
    assert other.manifest.tokenizer == release.manifest.tokenizer


def test_every_task_has_a_registered_schema_and_max_tokens(release):
    for task in release.manifest.tasks.values():
        assert task.schema_id in SCHEMAS
        assert task.max_tokens == MAX_ANSWER_TOKENS


@pytest.mark.parametrize("trained", [False, True])
def test_the_model_card_explains_the_quantisation_label(release, trained):
    card = ((COMMITTED if trained else release.directory) / "README.md").read_text()
    assert "bfloat16, not quantised" in card
    assert "w4a8" in card


def test_the_release_is_smaller_than_4_mib(release):
    assert sum(map(len, read_files(release.directory).values())) < 4 * 2**20


def test_tokenizer_info_matches_the_tokenizer(release):
    assert check_info(release.tokenizer_info_path, release.tokenizer_dir) == []
