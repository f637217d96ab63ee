"""The driver that a CUDA version needs."""

import pytest

from llmstack.diagnostics.gpus import Gpu, driver_error


@pytest.mark.parametrize(
    ("cuda", "driver", "is_too_old"),
    [
        ("13.0.1", "575.51", True),
        ("13.0.1", "580.65", False),
        ("12.4", "525.60", False),
        ("", "1", False),
        ("12", "?", False),
    ],
)
def test_a_driver_older_than_cuda_needs_is_an_error(cuda, driver, is_too_old):
    assert bool(driver_error(Gpu("NVIDIA H100", 1, 0, driver), cuda or None)) == is_too_old
