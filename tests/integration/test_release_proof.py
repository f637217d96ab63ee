"""The models themselves refuse a release whose files are not those of its manifest, whoever starts the server."""

import shutil

import pytest

from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server_error import ServerStartError
from llmstack.server_process import TritonServer

pytestmark = [pytest.mark.server]
CHANGED = {
    "engine/config.json": "engine.hash: manifest has sha256:",
    "tokenizer_info.json": "tokenizer.info_hash: manifest has sha256:",
    "tokenizer/tokenizer.json": "tokenizer/tokenizer.json differs from tokenizer_info.json",
}


@pytest.mark.parametrize(("name", "reason"), CHANGED.items())
def test_a_changed_file_keeps_the_models_from_loading_and_the_reason_is_told(tmp_path, name, reason):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    path = release / name
    path.write_text(path.read_text() + "\n")
    server = TritonServer(release, engine="echo", state_dir=tmp_path / "state")
    with pytest.raises(ServerStartError) as refused, server:
        pass
    assert reason in str(refused.value)
    assert reason in (tmp_path / "state" / "tritonserver.log").read_text()
