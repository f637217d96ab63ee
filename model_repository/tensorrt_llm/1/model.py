"""The `tensorrt_llm` model: a thin client of the engine process."""

from engine_process.triton.engine_model import EngineModel as TritonPythonModel  # noqa: F401 - the name that Triton requires
