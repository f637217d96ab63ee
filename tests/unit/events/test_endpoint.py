"""Endpoints come from the environment, with http or https URLs that hold no user, password or fragment."""

import pytest

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.endpoint import configured_names, read_endpoints, secret_variable, url_variable
from llmstack.events.secret_file import WebhookConfigurationError
from tests.webhook_receiver import new_secret, write_secrets


@pytest.fixture
def environment(tmp_path):
    """Both endpoints configured."""
    path = str(write_secrets(tmp_path / "secret", new_secret()))
    return {
        **{url_variable(name): f"https://{name}.example:8443/hook/t0ken" for name in ENDPOINTS},
        **{secret_variable(name): path for name in ENDPOINTS},
    }


def test_both_endpoints_are_read_from_their_variables(environment):
    assert set(environment) == {
        "LLMSTACK_READINESS_WEBHOOK_URL",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE",
        "LLMSTACK_FINANCE_WEBHOOK_URL",
        "LLMSTACK_FINANCE_WEBHOOK_SECRET_FILE",
    }
    endpoints = read_endpoints(environment)
    assert [endpoint.name for endpoint in endpoints] == ["readiness", "finance"]
    assert endpoints[0].origin == "https://readiness.example:8443"


def test_an_endpoint_without_a_url_is_not_configured(environment):
    environment[url_variable("finance")] = " "
    assert configured_names(environment) == ["readiness"]
    assert [endpoint.name for endpoint in read_endpoints(environment)] == ["readiness"]
    assert read_endpoints({}) == []


def test_an_endpoint_needs_a_secret(environment):
    del environment[secret_variable("finance")]
    with pytest.raises(WebhookConfigurationError, match="LLMSTACK_FINANCE_WEBHOOK_SECRET_FILE is not"):
        read_endpoints(environment)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/t0ken", "must begin with"),
        ("file:///etc/t0ken", "must begin with"),
        ("host/t0ken", "must begin with"),
        ("https:///t0ken", "has no host"),
        ("https://user:t0ken@host/", "user or a password"),
        ("https://t0ken@host/", "user or a password"),
        ("https://host/#t0ken", "after #"),
        ("https://host:t0ken/", "is not a valid URL"),
        ("https://host:70000/t0ken", "port"),
        ("https://ho st/t0ken", "is not a valid URL"),
        ("https://host/\nt0ken", "is not a valid URL"),
        ("https://[::1/t0ken", "is not a valid URL"),
    ],
)
def test_an_invalid_url_is_rejected_without_quoting_it(environment, url, reason):
    environment[url_variable("readiness")] = url
    with pytest.raises(WebhookConfigurationError, match=f"LLMSTACK_READINESS_WEBHOOK_URL .*{reason}") as error:
        read_endpoints(environment)
    assert "t0ken" not in str(error.value) + error.value.next_step


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/x", "https://[::1]:8443/x", "HTTPS://Host.Example/x?y=1"])
def test_valid_urls_are_used_unchanged(environment, url):
    environment[url_variable("readiness")] = url
    assert read_endpoints(environment)[0].url == url


def test_the_path_of_a_url_is_not_in_the_repr(environment):
    assert "t0ken" not in repr(read_endpoints(environment))
