"""The no-op engine with a mood, which the file `engine/mood` of its release tells.

`hangs`: it never finishes loading. `silent`: it answers without a token. `tires N`: the first N requests get their
answers, the later ones errors.
"""

import os
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

from portable_engine.echo import EchoModel


class TritonPythonModel(EchoModel):
    def initialize(self, args):
        mood = Path(os.environ["LLMSTACK_RELEASE_DIR"], "engine", "mood")
        self._mood, _, number = mood.read_text().partition(" ") if mood.exists() else ("", "", "")
        self._num_left = int(number or 0)
        super().initialize(args)
        while self._mood == "hangs":
            time.sleep(1)

    def execute(self, requests):
        responses = super().execute(requests)
        if self._mood == "silent":
            return [self._without_tokens(response) for response in responses]
        if self._mood == "tires":
            return [self._tired(response) for response in responses]
        return responses

    def _tired(self, response):
        self._num_left -= 1
        if self._num_left >= 0:
            return response
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("tired"))

    def _without_tokens(self, response):
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        for name in ("sequence_length", "num_output_tokens"):
            tensors[name] = tensors[name] * 0
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
