"""Copies its input to its output."""

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton requires a class of this name."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request, with the request's input as output."""
        return [pb_utils.InferenceResponse([pb_utils.Tensor("text_output", _text(request))]) for request in requests]


def _text(request: Any) -> Any:
    return pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
