"""The two steps of the ensemble around the engine: unpack, rules, pack. Plain arrays, no Triton."""
