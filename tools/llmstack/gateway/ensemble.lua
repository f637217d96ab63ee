-- What a request to the ensemble, or to the model that streams its answers, may name. tests/unit/gateway compares this
-- with the tensors of the models and with the server's command line.

local function set(...)
  local members = {}
  for _, name in ipairs({ ... }) do members[name] = true end
  return members
end

local Ensemble = { MODEL = "ensemble", STREAM_MODEL = "ensemble_stream" }

-- The HTTP calls of each model. Triton refuses infer, and ModelInfer over gRPC, for a model that streams.
Ensemble.HTTP_CALLS = {
  [Ensemble.MODEL] = set("infer", "generate", "generate_stream"),
  [Ensemble.STREAM_MODEL] = set("generate", "generate_stream"),
}

-- The calls of the OpenAI API that have a body.
Ensemble.OPENAI_PATHS = set("/v1/chat/completions", "/v1/completions")

-- Each input of both models, and its data type.
Ensemble.INPUTS = {
  text_input = "BYTES",
  messages = "BYTES",
  task = "BYTES",
  schema_id = "BYTES",
  guided_decoding_guide_type = "BYTES",
  guided_decoding_guide = "BYTES",
  max_tokens = "INT32",
  temperature = "FP32",
  top_k = "INT32",
  top_p = "FP32",
  repetition_penalty = "FP32",
  presence_penalty = "FP32",
  frequency_penalty = "FP32",
  min_tokens = "INT32",
  beam_width = "INT32",
  end_id = "INT32",
  pad_id = "INT32",
  seed = "UINT64",
  stop_words = "BYTES",
  bad_words = "BYTES",
  stream = "BOOL",
  return_log_probs = "BOOL",
  exclude_input_in_output = "BOOL",
  return_num_input_tokens = "BOOL",
  return_num_output_tokens = "BOOL",
  return_perf_metrics = "BOOL",
}

-- The outputs of postprocess, which settles a request's row in the ledger. Triton runs a step only for the outputs that a
-- request asks for: a request must ask for one of these, or for none in particular.
Ensemble.SETTLED_OUTPUTS = set(
  "text_output", "finish_reason", "cost_usd", "guided", "resolved_schema_id", "schema_valid", "flags",
  "queue_delay_us", "time_to_first_token_us", "total_time_us", "engine_hash"
)
-- The outputs that come from the engine directly.
Ensemble.ENGINE_OUTPUTS = set(
  "cum_log_probs", "output_log_probs", "arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns",
  "last_token_time_ns", "num_input_tokens", "num_output_tokens"
)

-- The outputs that only the streaming model has, beside those of the ensemble.
Ensemble.STREAM_OUTPUTS = set("is_last")

-- The headers that Triton forwards to the models, in lower case. The canary's token is not among them: only the parent
-- process of a server sends it, and not through the gateway.
Ensemble.HEADERS = set(
  "x-engine-hash", "x-quantisation", "x-tenant", "x-request-id", "traceparent", "authorization", "x-api-key"
)

-- Other headers that the gateway passes on; it deletes the rest. HAProxy itself handles those that concern a connection.
-- Not accept-encoding: a q value that is too large stops Triton before 26.02.
Ensemble.HTTP_HEADERS = set(
  "host", "content-type", "content-length", "accept", "user-agent", "tracestate"
)
Ensemble.GRPC_HEADERS = set(
  "host", "te", "content-type", "user-agent", "tracestate", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"
)

return Ensemble
