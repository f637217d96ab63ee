"""The code blocks marked `sh` and `python` in the Markdown pages, run as they are on a live server.

One page's blocks run in their order in one shell session: later ones may use what earlier ones set.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_graph import ROOT
from tests.integration.live_service import HOST
from tests.markdown import PAGES, blocks

RUNNABLE = ("sh", "python")
WITH_BLOCKS = [page for page in PAGES if any(block.language in RUNNABLE for block in blocks(page))]
QUICK = ("README.md", "streaming.md")  # in `make test`


def script_of(page: Path) -> str:
    """One shell script; a Python block has only what it imports and the environment that the shell exports."""
    parts = ["set -euo pipefail"]
    for block in blocks(page):
        if block.language == "sh":
            parts.append(block.text)
        elif block.language == "python":
            parts += ["python <<'END'", block.text, "END"]
    return "\n".join(parts)


def parameter(page: Path):
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=() if page.name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("page", [parameter(page) for page in WITH_BLOCKS])
def test_code_blocks_run(page, server):
    script = script_of(page)
    # The pages name the default ports.
    ports = {8000: server.http_port, 8001: server.grpc_port, 8003: server.ready_port, 8005: server.openai_port}
    for default, port in ports.items():
        script = script.replace(f"localhost:{default}", f"{HOST}:{port}")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LLMSTACK_STATE_DIR": str(server.state_dir),
        "LLMSTACK_ADMIN_KEY_FILE": str(server.state_dir.parent / "key"),
    }
    (ROOT / "build").mkdir(exist_ok=True)  # the pages write there
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for block in blocks(page):
        if block.language in RUNNABLE:
            for line in expected_lines(block.text):
                assert line in done.stdout, f"{page.name}:{block.line} promises {line}\n{done.stdout}"


def expected_lines(text: str) -> list[str]:
    """What comments such as `# text_output: {…}` promise, as it stands in a JSON answer."""
    marker = "# text_output: "
    found = [line.removeprefix(marker) for line in text.splitlines() if line.startswith(marker)]
    return [line.replace('"', '\\"') for line in found]


def test_these_pages_have_code_to_run():
    assert {str(page.relative_to(ROOT)) for page in WITH_BLOCKS} >= {"README.md", "docs/doctor.md", "docs/ledger.md"}
