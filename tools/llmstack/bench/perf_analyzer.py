"""Runs NVIDIA's perf_analyzer and reads its report."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

BINARY = "PERF_ANALYZER"
# A script that prints the path of a working perf_analyzer, for systems whose C library is too old for the wheel.
SETUP = "PERF_ANALYZER_SETUP"

# Always the average of three windows, however much they differ (in percent).
_THREE_WINDOWS = ("--measurement-mode", "time_windows", "--max-trials", "3", "--stability-percentage", "999")


class PerfAnalyzerError(RuntimeError):
    """perf_analyzer is not available, or its run failed; the text says what to do."""


class Measurement(NamedTuple):
    """The results of one run; latencies in microseconds, as a client sees them."""

    requests_per_s: float
    p50_us: float
    p95_us: float
    p99_us: float


def find_perf_analyzer() -> str:
    """The path of perf_analyzer: `$PERF_ANALYZER`, else from PATH, else what the script `$PERF_ANALYZER_SETUP` prints.

    Raises:
        PerfAnalyzerError: it was not found.
    """
    if path := os.environ.get(BINARY) or shutil.which("perf_analyzer"):
        return path
    if setup := os.environ.get(SETUP):
        output = subprocess.run([setup], check=False, capture_output=True, text=True).stdout.split()
        if output:
            return output[-1]
    raise PerfAnalyzerError(
        f"perf_analyzer not found: `pip install perf-analyzer` (needs glibc 2.38 or later) or set {BINARY} to its path"
    )


class PerfAnalyzer:
    """Runs perf_analyzer against one server over gRPC."""

    def __init__(self, binary: str, grpc_url: str, headers: Mapping[str, str]) -> None:
        # gRPC metadata keys must be lower case.
        pairs = [f"{name.lower()}:{value}" for name, value in headers.items()]
        self._command = [binary, "-i", "grpc", "-u", grpc_url, *(part for pair in pairs for part in ("-H", pair))]

    def measure(self, model: str, inputs: Mapping[str, Any], concurrency: int, window_ms: int) -> Measurement:
        """Send `inputs` (tensor name → values) repeatedly at `concurrency`, for three windows of `window_ms`.

        Raises:
            PerfAnalyzerError: a request failed, or there is no report.
        """
        with tempfile.TemporaryDirectory() as directory:
            data, report = Path(directory, "inputs.json"), Path(directory, "report.csv")
            data.write_bytes(orjson.dumps({"data": [inputs]}))
            files = ("--input-data", str(data), "-f", str(report))
            load = ("--concurrency-range", str(concurrency), "--measurement-interval", str(window_ms))
            command = [*self._command, "-m", model, *files, *load, *_THREE_WINDOWS]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode or not report.exists():
                raise PerfAnalyzerError(f"perf_analyzer on {model} failed:\n{(done.stdout + done.stderr)[-2_000:]}")
            return _read_report(report)


def _read_report(path: Path) -> Measurement:
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    latencies = (float(row[f"p{percentile} latency"]) for percentile in (50, 95, 99))
    return Measurement(float(row["Inferences/Second"]), *latencies)
