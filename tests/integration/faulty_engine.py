"""The no-op engine with a fault, which the file `engine/fault` of its release names.

`hangs`: it never finishes loading. `silent`: it answers without a token. `fails_after N`: the first N requests are
answered, later ones get an error.
"""

import os
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

from portable_engine.echo import EchoModel


class TritonPythonModel(EchoModel):
    def initialize(self, args):
        path = Path(os.environ["LLMSTACK_RELEASE_DIR"], "engine", "fault")
        self._fault, _, number = path.read_text().partition(" ") if path.exists() else ("", "", "")
        self._num_left = int(number or 0)
        super().initialize(args)
        while self._fault == "hangs":
            time.sleep(1)

    def execute(self, requests):
        responses = super().execute(requests)
        if self._fault == "silent":
            return [self._without_tokens(response) for response in responses]
        if self._fault == "fails_after":
            return [self._limited(response) for response in responses]
        return responses

    def _limited(self, response):
        self._num_left -= 1
        if self._num_left >= 0:
            return response
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("the engine failed"))

    def _without_tokens(self, response):
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        for name in ("sequence_length", "num_output_tokens"):
            tensors[name] = tensors[name] * 0
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
