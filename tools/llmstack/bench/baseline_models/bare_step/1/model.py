"""Hands its input on."""

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton looks for a class of this name."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, with its own input in it."""
        return [pb_utils.InferenceResponse([pb_utils.Tensor("text_output", _text(request))]) for request in requests]


def _text(request: Any) -> Any:
    return pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
