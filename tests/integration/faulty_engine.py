"""`tensorrt_llm` with a fault, which the file `engine/fault` of its release names.

`hangs`: it never finishes loading. `silent`: it answers without a token. `fails_after N`: the first N requests are
answered, later ones get an error.
"""

import os
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

from engine_process.triton import pending_response
from engine_process.triton.engine_model import EngineModel


class TritonPythonModel(EngineModel):
    def initialize(self, args):
        path = Path(os.environ["LLMSTACK_RELEASE_DIR"], "engine", "fault")
        self._fault, _, number = path.read_text().partition(" ") if path.exists() else ("", "", "")
        self._num_left = int(number or 0)
        super().initialize(args)
        while self._fault == "hangs":
            time.sleep(1)
        if self._fault == "silent":
            write_response = vars(pending_response)["write_response"]
            vars(pending_response)["write_response"] = _without_tokens(write_response)

    def execute(self, requests):
        responses = []
        for request in requests:
            self._num_left -= 1
            if self._fault == "fails_after" and self._num_left < 0:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("the engine failed")))
            else:
                responses += super().execute([request])
        return responses


def _without_tokens(write_response):
    def write(*arguments, **options):
        arrays = write_response(*arguments, **options)
        return {
            name: array * 0 if name in ("sequence_length", "num_output_tokens") else array
            for name, array in arrays.items()
        }

    return write
