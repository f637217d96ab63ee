"""The tenants with metrics of their own, from options and from the environment variable."""

import pytest

from llmstack.server.error import ServerStartError
from llmstack.supervision.metric_tenants import MAX_TENANTS, parse_metric_tenants


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], ()),
        (["acme", "beta"], ("acme", "beta")),
        (["acme,beta, gamma"], ("acme", "beta", "gamma")),
        (["acme", "beta,acme,", ""], ("acme", "beta")),
    ],
)
def test_names_are_repeated_or_separated_by_commas(values, names):
    assert parse_metric_tenants(values) == names


@pytest.mark.parametrize("name", ["other", "x" * 129, "a\nb"])
def test_a_name_that_no_tenant_with_metrics_can_have_is_rejected(name):
    with pytest.raises(ServerStartError):
        parse_metric_tenants([name])


def test_the_number_of_names_is_limited():
    names = [f"tenant-{number}" for number in range(MAX_TENANTS + 1)]
    assert len(parse_metric_tenants(names[1:])) == MAX_TENANTS
    with pytest.raises(ServerStartError, match=f"limit {MAX_TENANTS}"):
        parse_metric_tenants(names)
