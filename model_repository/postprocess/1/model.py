"""The `postprocess` model; its behaviour is in `llm_policy.steps.postprocess`."""

from llm_policy.triton.postprocess_model import PostprocessModel


class TritonPythonModel(PostprocessModel):
    """The class name that Triton requires."""
