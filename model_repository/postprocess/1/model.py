"""The `postprocess` model: what it does is `llm_policy.steps.postprocess`."""

from llm_policy.triton.postprocess_model import PostprocessModel


class TritonPythonModel(PostprocessModel):
    """Triton looks for a class of this name."""
