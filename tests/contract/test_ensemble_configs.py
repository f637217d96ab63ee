"""The model configurations declare exactly the tensors of `llm_policy.triton.tensors`."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from llm_policy.triton import tensors

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


@pytest.mark.parametrize("model", TABLE)
def test_a_model_declares_exactly_the_tensors_of_the_table(model):
    inputs, outputs = TABLE[model]
    assert declared(config(model).input) == [tuple(spec) for spec in inputs]
    assert declared(config(model).output) == [tuple(spec) for spec in outputs]


@pytest.mark.parametrize("model", ["ensemble", "preprocess"])
def test_every_client_input_is_optional(model):
    assert all(spec.optional for spec in config(model).input)


@pytest.mark.parametrize("model", [*TABLE, "tensorrt_llm"])
def test_every_model_accepts_batches_of_four(model):
    assert config(model).max_batch_size == 4


@pytest.mark.parametrize("model", ["preprocess", "postprocess"])
def test_pre_and_postprocess_batch_dynamically(model):
    assert config(model).HasField("dynamic_batching")


@pytest.mark.parametrize("name", ["config.pbtxt", "configs/embedded.pbtxt", "configs/echo.pbtxt"])
def test_the_engine_declares_every_tensor_that_the_steps_exchange(name):
    engine = config("tensorrt_llm", name)
    assert set(declared(engine.input)) >= {tuple(spec) for spec in tensors.ENGINE_INPUTS}
    assert set(declared(engine.output)) >= {tuple(spec) for spec in tensors.ENGINE_OUTPUTS}


def test_no_ensemble_output_has_the_name_of_an_input():
    assert not {i.name for i in config("ensemble").input} & {o.name for o in config("ensemble").output}


def test_the_ensemble_maps_every_tensor_of_every_step():
    steps = {step.model_name: step for step in config("ensemble").ensemble_scheduling.step}
    for model, (inputs, outputs) in {k: v for k, v in TABLE.items() if k != "ensemble"}.items():
        assert set(steps[model].input_map) == {spec.name for spec in inputs}
        assert set(steps[model].output_map) == {spec.name for spec in outputs}
    assert set(steps["tensorrt_llm"].input_map) == {spec.name for spec in tensors.ENGINE_INPUTS}
