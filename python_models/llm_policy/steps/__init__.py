"""The two steps around the engine, preprocess and postprocess, on plain arrays and without Triton."""
