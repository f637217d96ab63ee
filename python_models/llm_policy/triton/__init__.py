"""The Triton models: the only package of the policy that imports Triton's Python backend."""
