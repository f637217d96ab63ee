"""Answers with the request's parameters and what the stub sees of its environment."""

import json
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

import llm_policy

REFUSAL = "PARROT_REFUSAL"


class TritonPythonModel:
    def initialize(self, args):
        if refusal := os.environ.get(REFUSAL):
            raise ValueError(refusal)

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
