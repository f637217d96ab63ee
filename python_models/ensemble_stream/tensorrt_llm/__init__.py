"""Streams from TensorRT-LLM's C++ backend, whose model `tensorrt_llm` is decoupled and in the same server."""
