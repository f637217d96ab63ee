"""The `preprocess` model: what it does is `llm_policy.steps.preprocess`."""

from llm_policy.triton.preprocess_model import PreprocessModel


class TritonPythonModel(PreprocessModel):
    """Triton looks for a class of this name."""
