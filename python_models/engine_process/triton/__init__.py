"""The `tensorrt_llm` model: a thin client of the engine process with TensorRT-LLM's tensors."""
