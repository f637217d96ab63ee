"""The `ensemble_stream` model; its behaviour is in the package `ensemble_stream`."""

from ensemble_stream.triton.stream_model import StreamModel


class TritonPythonModel(StreamModel):
    """The class name that Triton requires."""
