"""Benchmarks: the policy's overhead, load on the whole stack, the portable engine alone."""
