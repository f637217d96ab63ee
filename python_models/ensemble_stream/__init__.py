"""The `ensemble_stream` model: the rules of preprocess and postprocess around the engine process's stream of tokens."""
