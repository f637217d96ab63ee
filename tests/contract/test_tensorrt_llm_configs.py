"""The engine's configurations match TensorRT-LLM's Triton contract, deliberately repeated here."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_process.messages import Generate, Guide, Sampling, write_ids
from ensemble_stream.tensorrt_llm.request_tensors import infer_inputs, request_arrays, requested_outputs

DIRECTORY = Path(__file__).resolve().parents[2] / "model_repository" / "tensorrt_llm"
CONFIGS = ("config.pbtxt", "configs/decoupled.pbtxt", "configs/engine_process.pbtxt")
BACKEND, DECOUPLED = CONFIGS[:2]
PORTABLE = CONFIGS[2:]

SCALAR = (1,)
# name → (type, dims, whether a reshape removes the dimension of 1)
INPUTS = {
    "input_ids": ("INT32", (-1,), False),
    "input_lengths": ("INT32", SCALAR, True),
    "request_output_len": ("INT32", SCALAR, True),
    "end_id": ("INT32", SCALAR, True),
    "pad_id": ("INT32", SCALAR, True),
    "beam_width": ("INT32", SCALAR, True),
    "temperature": ("FP32", SCALAR, True),
    "runtime_top_k": ("INT32", SCALAR, True),
    "runtime_top_p": ("FP32", SCALAR, True),
    "repetition_penalty": ("FP32", SCALAR, True),
    "presence_penalty": ("FP32", SCALAR, True),
    "frequency_penalty": ("FP32", SCALAR, True),
    "min_tokens": ("INT32", SCALAR, True),
    "seed": ("UINT64", SCALAR, True),
    "stop_words_list": ("INT32", (2, -1), False),
    "bad_words_list": ("INT32", (2, -1), False),
    "return_log_probs": ("BOOL", SCALAR, True),
    "return_perf_metrics": ("BOOL", SCALAR, True),
    "return_num_input_tokens": ("BOOL", SCALAR, True),
    "return_num_output_tokens": ("BOOL", SCALAR, True),
    "exclude_input_in_output": ("BOOL", SCALAR, True),
    "streaming": ("BOOL", SCALAR, True),
    "guided_decoding_guide_type": ("STRING", SCALAR, False),
    "guided_decoding_guide": ("STRING", SCALAR, False),
}
OUTPUTS = {
    "output_ids": ("INT32", (-1, -1)),
    "sequence_length": ("INT32", (-1,)),
    "cum_log_probs": ("FP32", (-1,)),
    "output_log_probs": ("FP32", (-1, -1)),
    "arrival_time_ns": ("INT64", SCALAR),
    "first_scheduled_time_ns": ("INT64", SCALAR),
    "first_token_time_ns": ("INT64", SCALAR),
    "last_token_time_ns": ("INT64", SCALAR),
    "num_input_tokens": ("INT32", SCALAR),
    "num_output_tokens": ("INT32", SCALAR),
}
REQUIRED = {"input_lengths", "request_output_len"}
# Settings of the C++ backend that the deployment guide requires.
SETTINGS = {
    "guided_decoding_backend": "xgrammar",
    "xgrammar_tokenizer_info_path": "/workspace/tokenizer/tokenizer_info.json",
    "tokenizer_dir": "/workspace/tokenizer",
    "enable_kv_cache_reuse": "true",
    "enable_chunked_context": "true",
    "max_queue_delay_microseconds": "3000",
    "gpt_model_type": "inflight_fused_batching",
}


def config(name):
    return text_format.Parse((DIRECTORY / name).read_text(), model_config_pb2.ModelConfig())


def type_of(spec):
    return model_config_pb2.DataType.Name(spec.data_type).removeprefix("TYPE_")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_input_of_the_contract_is_declared_unchanged(name):
    declared = {i.name: (type_of(i), tuple(i.dims), i.HasField("reshape")) for i in config(name).input}
    assert {key: declared.get(key) for key in INPUTS} == INPUTS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_output_of_the_contract_is_declared_unchanged(name):
    declared = {o.name: (type_of(o), tuple(o.dims)) for o in config(name).output}
    assert {key: declared.get(key) for key in OUTPUTS} == OUTPUTS


@pytest.mark.parametrize("name", CONFIGS)
def test_only_lengths_are_required(name):
    assert {i.name for i in config(name).input if not i.optional} == REQUIRED


@pytest.mark.parametrize("name", PORTABLE)
def test_a_portable_configuration_declares_nothing_beyond_the_contract(name):
    assert {i.name for i in config(name).input} - {"policy_decision"} == set(INPUTS)  # it names the ledger's rows
    assert {o.name for o in config(name).output} == set(OUTPUTS)


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_hold_four_rows_and_only_the_decoupled_configuration_streams(name):
    assert config(name).max_batch_size == 4
    assert config(name).model_transaction_policy.decoupled == (name == DECOUPLED)


def test_the_decoupled_configuration_differs_from_the_unary_one_in_its_transaction_policy_alone():
    unary, decoupled = config(BACKEND), config(DECOUPLED)
    unary.model_transaction_policy.decoupled = True
    assert decoupled == unary


def test_the_backend_is_tensorrt_llm_with_the_deployment_guides_settings():
    engine = config("config.pbtxt")
    assert engine.backend == "tensorrtllm"
    assert {key: engine.parameters[key].string_value for key in SETTINGS} == SETTINGS
    assert engine.dynamic_batching.max_queue_delay_microseconds == 3_000


@pytest.mark.parametrize("name", [BACKEND, DECOUPLED])
def test_no_placeholder_is_left(name):
    assert "${" not in (DIRECTORY / name).read_text()


def test_a_stream_sends_and_asks_for_what_the_decoupled_configuration_declares():
    request = Generate(
        1,
        write_ids([5, 6]),
        8,
        sampling=Sampling(0.5, 4, 0.9, 1.1, 0.2, 0.3, 7),
        stop_sequences=[[1, 2]],
        bad_sequences=[[3]],
        end_id=2,
        guide=Guide("xgrammar", "regex", "a"),
    )
    declared = {spec.name: spec for spec in config(DECOUPLED).input}
    sent = {tensor.name(): tensor for tensor in infer_inputs(request_arrays(request))}
    assert set(sent) <= set(declared)
    assert {spec.name for spec in declared.values() if not spec.optional} <= set(sent)
    for name, tensor in sent.items():
        spec = declared[name]
        assert tensor.datatype() == type_of(spec).replace("STRING", "BYTES")
        _, *shape = tensor.shape()
        assert all(dim in (-1, size) for dim, size in zip(spec.dims, shape, strict=True))
    assert sent["streaming"].shape() == [1, 1]
    assert {output.name() for output in requested_outputs()} <= {spec.name for spec in config(DECOUPLED).output}


def test_the_engine_process_is_reached_by_a_python_model():
    assert config("configs/engine_process.pbtxt").backend == "python"
