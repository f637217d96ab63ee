"""The `preprocess` model; its behaviour is in `llm_policy.steps.preprocess`."""

from llm_policy.triton.preprocess_model import PreprocessModel


class TritonPythonModel(PreprocessModel):
    """The class name that Triton requires."""
