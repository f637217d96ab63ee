"""An engine with the tensors of TensorRT-LLM's Triton model, on PyTorch and transformers. Needs no TensorRT-LLM."""
