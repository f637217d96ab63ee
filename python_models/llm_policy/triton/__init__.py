"""The only package of the policy that touches Triton's Python backend."""
