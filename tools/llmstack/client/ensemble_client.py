"""Clients of the ensemble over its three protocols: HTTP `/infer`, HTTP `/generate` and gRPC.

Triton forwards request headers over `/infer` and gRPC. It never forwards them over `/generate`, so there they are
members of the body.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc

from llm_policy.errors import find_code
from llm_policy.release.release import Release
from llm_policy.rules.headers import API_KEY, ENGINE_HASH, QUANTISATION
from llm_policy.triton.tensors import ENSEMBLE_INPUTS

TIMEOUT_S = 60.0
_NO_PROXY = [("grpc.enable_http_proxy", 0)]  # a proxy from the environment is meant for external hosts
_WIRE_TYPES = {
    "TYPE_STRING": ("BYTES", np.object_),
    "TYPE_INT32": ("INT32", np.int32),
    "TYPE_UINT64": ("UINT64", np.uint64),
    "TYPE_FP32": ("FP32", np.float32),
    "TYPE_BOOL": ("BOOL", np.bool_),
}
_TYPES = {spec.name: _WIRE_TYPES[spec.data_type] for spec in ENSEMBLE_INPUTS}

Inputs = Mapping[str, Any]
Headers = Mapping[str, str]


class Server(Protocol):
    """A server's addresses: a `TritonServer` or `ServerUrls`."""

    @property
    def http_url(self) -> str:
        """`http://host:port`."""

    @property
    def grpc_url(self) -> str:
        """`host:port`."""


class ServerUrls(NamedTuple):
    """The addresses of a running server. `root_certificates` is a PEM file of certificates to trust over TLS.

    If it is given, gRPC uses TLS. HTTP uses TLS if its URL is https.
    """

    http_url: str
    grpc_url: str = ""
    root_certificates: str | None = None


class Reply(NamedTuple):
    """The reply to one request: each output's values in a flat list, or an error's text and its status."""

    outputs: dict[str, list[Any]]
    status: str
    error: str = ""

    @property
    def code(self) -> str:
        """The error code at the start of an error's text; empty if there is none."""
        code = find_code(self.error)
        return code.value if code else ""

    def first(self, name: str) -> Any:
        """The first value of an output; None if the output is missing or empty."""
        return next(iter(self.outputs.get(name, [])), None)


def release_headers(release: Release, api_key: str = "") -> dict[str, str]:
    """The headers that every request must have: the engine hash and quantisation of `release`, and a tenant's key."""
    engine = release.manifest.engine
    headers = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    return {**headers, API_KEY: api_key} if api_key else headers


def send_infer(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """Send one request over HTTP `/infer`: inputs as JSON tensors, headers as HTTP headers."""
    tensors = [
        {"name": name, "shape": [1, 1], "datatype": _TYPES[name][0], "data": [value]} for name, value in inputs.items()
    ]
    reply = _post(server, "infer", {"inputs": tensors}, headers)
    if isinstance(reply, Reply):
        return reply
    return Reply({output["name"]: output["data"] for output in reply["outputs"]}, "200")


def send_generate(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """Send one request over HTTP `/generate`: inputs and headers as members of one JSON object."""
    reply = _post(server, "generate", {**inputs, **headers}, {})
    if isinstance(reply, Reply):
        return reply
    return Reply({name: value if isinstance(value, list) else [value] for name, value in reply.items()}, "200")


def send_grpc(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """Send one request by NVIDIA's gRPC client: headers as metadata, whose keys must be lower case."""
    with open_grpc(server) as client:
        return send_over(client, inputs, headers)


def open_grpc(server: Server) -> triton_grpc.InferenceServerClient:
    """A connection for the requests of one thread, to use with `with`."""
    certificates = getattr(server, "root_certificates", None)
    return triton_grpc.InferenceServerClient(
        server.grpc_url, ssl=certificates is not None, root_certificates=certificates, channel_args=_NO_PROXY
    )


def send_over(client: triton_grpc.InferenceServerClient, inputs: Inputs, headers: Headers) -> Reply:
    """Send one request over an open gRPC connection."""
    metadata = {name.lower(): value for name, value in headers.items()}
    try:
        tensors = [grpc_tensor(name, value) for name, value in inputs.items()]
        result = client.infer("ensemble", tensors, headers=metadata, client_timeout=TIMEOUT_S)
    except triton_grpc.InferenceServerException as error:
        return Reply({}, str(error.status()).removeprefix("StatusCode."), error.message())
    names = [output.name for output in result.get_response().outputs]
    return Reply({name: [plain(value) for value in result.as_numpy(name).flat] for name in names}, "OK")


PROTOCOLS: dict[str, Callable[[Server, Inputs, Headers], Reply]] = {
    "HTTP /infer": send_infer,
    "HTTP /generate": send_generate,
    "gRPC": send_grpc,
}


def _post(server: Server, endpoint: str, body: Mapping[str, Any], headers: Headers) -> dict[str, Any] | Reply:
    """The JSON object of a successful response, or the reply of a failed one."""
    url = f"{server.http_url}/v2/models/ensemble/{endpoint}"
    try:
        response = httpx.post(
            url, json=body, headers=dict(headers), timeout=TIMEOUT_S, trust_env=False, verify=tls_verification(server)
        )
    except httpx.HTTPError as error:
        return Reply({}, "", f"no response: {error}")
    try:
        content: dict[str, Any] = response.json()
        is_ok = response.status_code == httpx.codes.OK
        return content if is_ok else Reply({}, str(response.status_code), content["error"])
    except (ValueError, KeyError, TypeError):  # for example a proxy's error page
        return Reply({}, str(response.status_code), f"not a response of Triton: {response.text[:80]!r}")


def tls_verification(server: Server) -> ssl.SSLContext | bool:
    """What an HTTP client verifies the server's certificate with."""
    certificates = getattr(server, "root_certificates", None)
    return ssl.create_default_context(cafile=certificates) if certificates is not None else True


def grpc_tensor(name: str, value: Any) -> triton_grpc.InferInput:
    """An input [1, 1] of the ensemble."""
    data_type, dtype = _TYPES[name]
    array = np.array([[value.encode() if isinstance(value, str) else value]], dtype)
    return triton_grpc.InferInput(name, [1, 1], data_type).set_data_from_numpy(array)


def plain(value: Any) -> Any:
    """A value of an output as Python's own type."""
    return value.decode() if isinstance(value, bytes) else value.item()
