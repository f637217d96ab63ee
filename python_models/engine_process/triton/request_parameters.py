"""What a request's parameters say to the engine. Triton hands the client's headers to every step as parameters."""

from __future__ import annotations

import json
from typing import Any

_TENANT = "x-tenant"  # HTTP keeps the client's spelling, gRPC lower-cases it


def tenant_of(request: Any) -> str:
    """The tenant that the request's headers name; empty if they name none, or can't be read."""
    try:
        parameters = json.loads(request.parameters() or "{}")
    except ValueError:  # also a header that is no UTF-8
        return ""
    return next((str(value) for key, value in parameters.items() if key.lower() == _TENANT), "")
