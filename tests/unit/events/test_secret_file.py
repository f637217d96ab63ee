"""Secret files are validated strictly, each secret signs, and no error shows a secret."""

import base64
from datetime import datetime, timezone

import pytest
from standardwebhooks import Webhook

from llmstack.events.secret_file import MAX_SECRETS, SecretFile, WebhookConfigurationError
from tests.webhook_receiver import new_secret, write_secrets

NOW_S = 1_700_000_000
NOW = datetime.fromtimestamp(NOW_S, timezone.utc)


def secret_of(num_bytes: int) -> str:
    """Deterministic, because it is part of test names, which parallel workers must agree on."""
    return "whsec_" + base64.b64encode(bytes(range(num_bytes))).decode()


@pytest.mark.parametrize("num_bytes", [24, 25, 26, 32, 64])
def test_the_signature_equals_the_librarys_with_and_without_padding(tmp_path, num_bytes):
    secret = secret_of(num_bytes)
    for text in (secret, secret.rstrip("=")):
        file = SecretFile(write_secrets(tmp_path / "secret", text))
        assert file.signature("msg_1", NOW_S, b"{}") == Webhook(secret).sign("msg_1", NOW, "{}")


def test_blank_lines_are_ignored_and_the_order_is_kept(tmp_path):
    newest, oldest = new_secret(), new_secret()
    (tmp_path / "secret").write_text(f"\n  {newest}  \r\n\n{oldest}\n\n")
    both = SecretFile(tmp_path / "secret").signature("msg_1", NOW_S, b"{}").split(" ")
    alone = [
        SecretFile(write_secrets(tmp_path / "one", secret)).signature("msg_1", NOW_S, b"{}")
        for secret in (newest, oldest)
    ]
    assert both == alone


@pytest.mark.parametrize(
    "text",
    [
        "my-long-passphrase-XYZ",  # no prefix
        base64.b64encode(b"XYZ" * 10).decode(),
        "whsec_",
        "whsec_XYZ*" + "A" * 40,  # the library would drop the * and sign with the rest
        "whsec_" + "A" * 41,  # no base64 has this length
        secret_of(23),
        secret_of(65),
        "whsec_ключ",
        "whsec_" + "A" * 44 + " XYZ",
    ],
)
def test_a_malformed_secret_is_rejected_by_line_without_quoting_it(tmp_path, text):
    path = write_secrets(tmp_path / "secret", new_secret(), text)
    with pytest.raises(WebhookConfigurationError, match="line 2: a webhook secret is whsec_") as error:
        SecretFile(path)
    assert text.removeprefix("whsec_") not in str(error.value) or text == "whsec_"
    assert "XYZ" not in str(error.value)
    assert "openssl rand" in error.value.next_step


@pytest.mark.parametrize("count", [0, MAX_SECRETS + 1])
def test_a_file_with_no_secret_or_too_many_is_rejected(tmp_path, count):
    secrets = [new_secret()] * count
    with pytest.raises(WebhookConfigurationError, match=f"holds {count} secrets"):
        SecretFile(write_secrets(tmp_path / "secret", *secrets))


def test_the_error_names_a_file_that_is_missing_or_binary(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary", "."):
        with pytest.raises(WebhookConfigurationError, match="can't be read") as error:
            SecretFile(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_an_invalid_change_is_reported_once_and_the_old_secrets_stay_in_use(tmp_path):
    path = write_secrets(tmp_path / "secret", new_secret())
    file = SecretFile(path)
    before = file.signature("msg_1", NOW_S, b"{}")
    path.write_text("oops, this is longer than it was")
    with pytest.raises(WebhookConfigurationError):
        file.refresh()
    file.refresh()
    assert file.signature("msg_1", NOW_S, b"{}") == before
    write_secrets(path, new_secret())
    file.refresh()
    assert file.signature("msg_1", NOW_S, b"{}") != before


def test_the_repr_shows_no_secret(tmp_path):
    secret = new_secret()
    assert secret.removeprefix("whsec_") not in repr(SecretFile(write_secrets(tmp_path / "secret", secret)))
