"""tritonserver with a stand-in for TensorRT-LLM's C++ backend, and `llmstack serve` on it."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from llmstack.server.binary import ServerBinary, find_server_binary
from llmstack.server.command import DECOUPLED, TENSORRT_LLM
from tests.integration.live_service import LiveService

STAND_IN = Path(__file__).with_name("tensorrtllm_backend")
LOG_NAME = "tensorrtllm_backend.jsonl"
_SERVE = """
import sys
from pathlib import Path
from llmstack.cli.app import app
from llmstack.server import process
from tests.integration.decoupled_server import server_binary
directory = Path(sys.argv.pop(1))
process.find_server_binary = lambda: server_binary(directory)
app()
"""


def server_binary(directory: Path) -> ServerBinary:
    """This machine's server, whose backends are copied into `directory`, with the stand-in as the backend tensorrtllm.

    Triton takes a directory with a model.py as a backend in Python.
    """
    binary = find_server_binary()
    backends = directory / "backends"
    if not backends.exists():  # copies: Triton takes no links here
        shutil.copytree(binary.lay_out_backends(directory), backends)
        shutil.copytree(STAND_IN, backends / TENSORRT_LLM)
    return dataclasses.replace(binary, backends=backends, stub=None)


class DecoupledService(LiveService):
    """`llmstack serve --engine tensorrtllm --tensorrtllm-mode decoupled`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, TENSORRT_LLM)
        self._backends = directory / "server"
        self._backends.mkdir(exist_ok=True)

    def command(self, *more: str) -> list[str]:
        """The command line of the parent."""
        python, _, _, *rest = super().command("--tensorrtllm-mode", DECOUPLED, *more)
        assert python == sys.executable
        return [python, "-c", _SERVE, str(self._backends), *rest]

    def ended(self) -> list[dict]:
        """What the stand-in did for each request that ended."""
        log = self.state_dir / LOG_NAME
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
