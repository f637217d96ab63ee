"""The `tensorrt_llm` model's tensor contract on PyTorch and transformers, for machines without TensorRT-LLM."""
