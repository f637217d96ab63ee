"""The headers of a check's requests."""

from llm_policy.rules.headers import API_KEY, TENANT
from llmstack.release.checks.target import CHECK_TENANT


def test_without_a_key_the_requests_have_a_label(target):
    assert target.headers[TENANT] == CHECK_TENANT
    assert API_KEY not in target.headers


def test_with_a_key_the_requests_are_those_of_its_tenant(target):
    headers = target._replace(api_key="lsk_key").headers
    assert headers[API_KEY] == "lsk_key"
    assert TENANT not in headers
    assert headers.items() >= {k: v for k, v in target.headers.items() if k != TENANT}.items()
