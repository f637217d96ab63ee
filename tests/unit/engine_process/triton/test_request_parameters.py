"""The tenant is the header `X-Tenant`, in the spelling of either protocol."""

import pytest

from engine_process.triton.request_parameters import tenant_of
from tests.pb_utils import InferenceRequest


@pytest.mark.parametrize(
    ("parameters", "tenant"),
    [
        (b'{"X-Engine-Hash": "sha256:0", "X-Tenant": "acme"}', "acme"),
        (b'{"x-tenant": "acme", "timeout": 5}', "acme"),
        (b"{}", ""),
        (b"", ""),
        (b'{"X-Tenant": "\xff"}', ""),
    ],
)
def test_the_tenant_is_read_from_the_headers(parameters, tenant):
    assert tenant_of(InferenceRequest({}, [], parameters=parameters)) == tenant
