"""The model configurations declare exactly the tensors of `llm_policy.triton.tensors`."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_process import __main__ as engine_main
from engine_process import messages, usage_journal
from engine_process.triton.tensors import read_ledger_ids, read_tenant
from llm_policy.ledger import engine_usage
from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.manifest import Engine, Guidance
from llm_policy.rules import headers
from llm_policy.steps.policy_decision import pack_records
from llm_policy.triton import tensors
from portable_engine import fair_slots

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def config(model, name="config.pbtxt"):
    return text_format.Parse((REPOSITORY / model / name).read_text(), model_config_pb2.ModelConfig())


def declared(specs):
    return [(spec.name, model_config_pb2.DataType.Name(spec.data_type), tuple(spec.dims)) for spec in specs]


TABLE = {
    "ensemble": (tensors.ENSEMBLE_INPUTS, tensors.ENSEMBLE_OUTPUTS),
    "preprocess": (tensors.ENSEMBLE_INPUTS, tensors.PREPROCESS_OUTPUTS),
    "postprocess": (tensors.POSTPROCESS_INPUTS, tensors.POSTPROCESS_OUTPUTS),
}
STEPS = ("preprocess", "postprocess")


@pytest.mark.parametrize("model", TABLE)
def test_a_model_declares_exactly_the_tensors_of_the_table(model):
    inputs, outputs = TABLE[model]
    assert declared(config(model).input) == [tuple(spec) for spec in inputs]
    assert declared(config(model).output) == [tuple(spec) for spec in outputs]


def test_the_stream_takes_what_the_ensemble_takes_and_adds_one_output():
    stream = config("ensemble_stream")
    assert declared(stream.input) == declared(config("ensemble").input)
    assert declared(stream.output) == [tuple(spec) for spec in tensors.STREAM_OUTPUTS]
    assert (stream.max_batch_size, stream.model_transaction_policy.decoupled) == (8, True)


@pytest.mark.parametrize("model", ["ensemble", "ensemble_stream", "preprocess"])
def test_every_client_input_is_optional(model):
    assert all(spec.optional for spec in config(model).input)


@pytest.mark.parametrize("model", [*TABLE, "tensorrt_llm"])
def test_every_model_accepts_batches_of_four(model):
    assert config(model).max_batch_size == 4


@pytest.mark.parametrize("model", ["preprocess", "postprocess"])
def test_pre_and_postprocess_batch_dynamically(model):
    assert config(model).HasField("dynamic_batching")


@pytest.mark.parametrize("name", ["config.pbtxt", "configs/engine_process.pbtxt"])
def test_the_engine_declares_every_tensor_that_the_steps_exchange(name):
    engine = config("tensorrt_llm", name)
    assert set(declared(engine.input)) >= {tuple(spec) for spec in tensors.ENGINE_INPUTS}
    assert set(declared(engine.output)) >= {tuple(spec) for spec in tensors.ENGINE_OUTPUTS}


def test_no_ensemble_output_has_the_name_of_an_input():
    assert not {i.name for i in config("ensemble").input} & {o.name for o in config("ensemble").output}


def test_the_ensemble_maps_every_tensor_of_every_step():
    steps = {step.model_name: step for step in config("ensemble").ensemble_scheduling.step}
    for model in STEPS:
        inputs, outputs = TABLE[model]
        assert set(steps[model].input_map) == {spec.name for spec in inputs}
        assert set(steps[model].output_map) == {spec.name for spec in outputs}
    assert set(steps["tensorrt_llm"].input_map) == {spec.name for spec in tensors.ENGINE_INPUTS}


def test_the_engine_processes_ensemble_differs_only_in_the_rows_that_the_engine_learns():
    default, portable = config("ensemble"), config("ensemble", "configs/engine_process.pbtxt")
    (engine,) = (step for step in portable.ensemble_scheduling.step if step.model_name == "tensorrt_llm")
    assert engine.input_map.pop("policy_decision") == "_policy_decision"
    assert portable == default


@pytest.mark.parametrize("guide_text", ["", "a, [7]\n"])
def test_an_engine_process_reads_the_ledgers_ids_from_the_tensor_between_the_steps(guide_text):
    records = [RowRecord(guide_text=guide_text, ledger_id=number) for number in (7, 1_234_567, None)]
    assert read_ledger_ids({"policy_decision": pack_records(records)}, 3) == [7, 1_234_567, 0]


@pytest.mark.parametrize("tenant", ["acme", "", 'a "b", c'])
def test_an_engine_process_reads_the_tenant_that_the_policy_found(tenant):
    records = [RowRecord(request_id="r, 1", tenant=tenant, ledger_id=number) for number in (7, 8)]
    assert read_tenant({"policy_decision": pack_records(records)}) == tenant


def test_engine_and_ledger_name_the_same_file():
    assert usage_journal.FILE_NAME == engine_usage.FILE_NAME


def test_engine_and_policy_name_the_same_tenant_of_the_canary():
    assert fair_slots.CANARY_TENANT == messages.CANARY_TENANT == headers.CANARY_TENANT


def test_engine_and_manifest_have_the_same_limits_by_default():
    engine = {name: field.default for name, field in Engine.model_fields.items()}
    defaults = engine["max_batch_size"], engine["max_answer_s"], engine["max_queue_size"]
    assert defaults == (engine_main.MAX_BATCH_SIZE, engine_main.MAX_ANSWER_S, engine_main.MAX_QUEUE_SIZE)
    assert Guidance.model_fields["max_mask_ms"].default == engine_main.MAX_MASK_MS
