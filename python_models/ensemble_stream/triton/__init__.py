"""The part of `ensemble_stream` that uses Triton's Python backend."""
