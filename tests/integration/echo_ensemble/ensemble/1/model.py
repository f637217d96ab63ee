"""Answers with the request's parameters and the environment of the stub."""

import json
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

import llm_policy

LOAD_ERROR = "ECHO_ENSEMBLE_LOAD_ERROR"


class TritonPythonModel:
    def initialize(self, args):
        if message := os.environ.get(LOAD_ERROR):
            raise ValueError(message)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        seen = {
            "parameters": json.loads(request.parameters() or "{}"),
            "environment": {key: value for key, value in os.environ.items() if key.startswith("LLMSTACK_")},
            "prefix": sys.prefix,
            "llm_policy": llm_policy.__file__,
            "torch": "torch" in sys.modules,
        }
        text = np.array([[json.dumps(seen).encode()]], object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)])
