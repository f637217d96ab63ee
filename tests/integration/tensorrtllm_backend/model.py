"""A stand-in for TensorRT-LLM's C++ backend: the tensors and the order of its decoupled responses, without an engine.

It repeats the prompt's tokens, one a response, and writes what it did into a log of its own.
"""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

STEP_S = 0.005
LOG_NAME = "tensorrtllm_backend.jsonl"
FAILURE = "Executor failed process requestId 1 due to the following error: it was told to"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        assert config["backend"] == "tensorrtllm"
        assert config["model_transaction_policy"]["decoupled"]
        self._log = Path(os.environ["LLMSTACK_STATE_DIR"], LOG_NAME)
        self._requests, self._lock = [], threading.Lock()
        # One thread sends every response: the Python backend allows no more.
        threading.Thread(target=self._run, daemon=True).start()

    def execute(self, requests):
        with self._lock:
            self._requests += [Running(request) for request in requests]

    def _run(self):
        while True:
            time.sleep(STEP_S)
            with self._lock:
                requests = list(self._requests)
            for request in requests:
                request.step()
            ended = [request for request in requests if request.is_ended]
            with self._lock:
                self._requests = [request for request in self._requests if request not in ended]
            with self._log.open("a") as log:
                log.writelines(json.dumps(request.summary) + "\n" for request in ended)


class Running:
    def __init__(self, request):
        self._inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        self._sender = request.get_response_sender()
        self._prompt = self._inputs["input_ids"].reshape(-1)
        self._max_tokens = int(self._inputs["request_output_len"].reshape(-1)[0])
        self._arrival_ns = self._first_ns = time.monotonic_ns()
        self._num_tokens = 0
        self.is_ended = False

    @property
    def summary(self):
        return {"num_tokens": self._num_tokens, "max_tokens": self._max_tokens, "inputs": sorted(self._inputs)}

    def step(self):
        if self._sender.is_cancelled():
            self._end(pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled")))
        elif self._num_tokens == self._max_tokens - 1 and self._has_bad_words():
            self._end(pb_utils.InferenceResponse(error=pb_utils.TritonError(FAILURE)))
        elif self._num_tokens < self._max_tokens:
            self._num_tokens += 1
            self._sender.send(self._response([self._prompt[(self._num_tokens - 1) % len(self._prompt)]]))
        else:
            self._end(self._response([]))  # the real one may have no token left for its last response, too

    def _has_bad_words(self):
        return "bad_words_list" in self._inputs

    def _end(self, response):
        self.is_ended = True
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, ids):
        now_ns = time.monotonic_ns()
        self._first_ns = now_ns if self._num_tokens == 1 else self._first_ns
        outputs = {
            "output_ids": np.array([[ids]], np.int32),
            "sequence_length": np.array([[len(ids)]], np.int32),
            "num_output_tokens": np.array([[len(ids)]], np.int32),  # of this response, as there
        }
        if self._inputs["return_log_probs"].reshape(-1)[0]:
            outputs["output_log_probs"] = np.array([[[-0.5] * self._num_tokens]], np.float32)  # of all tokens so far
            outputs["cum_log_probs"] = np.array([[-0.5 * self._num_tokens]], np.float32)
        if not ids:
            for name, clock in (
                ("arrival_time_ns", self._arrival_ns),
                ("first_scheduled_time_ns", self._arrival_ns),
                ("first_token_time_ns", self._first_ns),
                ("last_token_time_ns", now_ns),
            ):
                outputs[name] = np.array([[clock]], np.int64)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
