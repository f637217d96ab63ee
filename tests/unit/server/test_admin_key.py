"""The key of Triton's administrative APIs, read from its secret file."""

import pytest

from llmstack.server.admin_key import random_admin_key, read_admin_key
from llmstack.server.error import ServerStartError


def test_an_admin_key_is_read_without_its_line_end(tmp_path):
    key = random_admin_key()
    (tmp_path / "key").write_text(key + "\n")
    assert read_admin_key(tmp_path / "key") == key


@pytest.mark.parametrize("text", ["", "short", "k" * 300, "sixteen letters and blanks", "ключ" * 8])
def test_an_invalid_admin_key_is_an_error_that_does_not_quote_it(tmp_path, text):
    (tmp_path / "key").write_text(text, encoding="utf-8")
    with pytest.raises(ServerStartError) as raised:
        read_admin_key(tmp_path / "key")
    assert not text or text not in str(raised.value)
    assert "openssl rand" in raised.value.next_step


def test_a_missing_admin_key_file_is_named(tmp_path):
    with pytest.raises(ServerStartError, match="nowhere"):
        read_admin_key(tmp_path / "nowhere")
