"""Guided decoding: what a client asks for, what the engine gets, and the proof that it is safe."""
