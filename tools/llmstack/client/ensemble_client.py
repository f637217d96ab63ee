"""One call of the ensemble over each of its protocols, as a client without this project would write it.

HTTP `/infer` and gRPC forward our headers; `/generate` never does, so there they are members of the body.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc

from llm_policy.triton.tensors import ENSEMBLE_INPUTS

TIMEOUT_S = 60.0
_NO_PROXY = [("grpc.enable_http_proxy", 0)]  # what the environment says of proxies is meant for the world outside
_WIRE_TYPES = {
    "TYPE_STRING": ("BYTES", np.object_),
    "TYPE_INT32": ("INT32", np.int32),
    "TYPE_UINT64": ("UINT64", np.uint64),
    "TYPE_FP32": ("FP32", np.float32),
    "TYPE_BOOL": ("BOOL", np.bool_),
}
_TYPES = {spec.name: _WIRE_TYPES[spec.data_type] for spec in ENSEMBLE_INPUTS}
_CODE = re.compile(r"(?:in ensemble '[^']*', )?([a-z_]+): ")

Inputs = Mapping[str, Any]
Headers = Mapping[str, str]


class Server(Protocol):
    """Where a server listens; one of our own, or any other's `ServerUrls`."""

    @property
    def http_url(self) -> str:
        """`http://host:port`."""

    @property
    def grpc_url(self) -> str:
        """`host:port`."""


class ServerUrls(NamedTuple):
    """The addresses of a server that somebody else runs; `root_certificates`, a PEM file, are trusted over TLS.

    With them gRPC goes over TLS, as HTTP does where its URL says so.
    """

    http_url: str
    grpc_url: str = ""
    root_certificates: str | None = None


class Reply(NamedTuple):
    """What came back: each output's values in a flat list, or an error's text and status."""

    outputs: dict[str, list[Any]]
    status: str
    error: str = ""

    @property
    def code(self) -> str:
        """The declared code that opens an error; empty without one."""
        match = _CODE.match(self.error)
        return match[1] if match else ""

    def first(self, name: str) -> Any:
        """The first value of an output; None when it isn't there."""
        return next(iter(self.outputs.get(name, [])), None)


def send_infer(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """HTTP `/infer`: tensors as JSON, our headers as headers."""
    tensors = [
        {"name": name, "shape": [1, 1], "datatype": _TYPES[name][0], "data": [value]} for name, value in inputs.items()
    ]
    reply = _post(server, "infer", {"inputs": tensors}, headers)
    if isinstance(reply, Reply):
        return reply
    return Reply({output["name"]: output["data"] for output in reply["outputs"]}, "200")


def send_generate(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """HTTP `/generate`: inputs and our headers are members of one JSON object."""
    reply = _post(server, "generate", {**inputs, **headers}, {})
    if isinstance(reply, Reply):
        return reply
    return Reply({name: value if isinstance(value, list) else [value] for name, value in reply.items()}, "200")


def send_grpc(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """gRPC by NVIDIA's client: our headers are metadata, whose keys must be lower case."""
    metadata = {name.lower(): value for name, value in headers.items()}
    certificates = getattr(server, "root_certificates", None)
    with triton_grpc.InferenceServerClient(
        server.grpc_url, ssl=certificates is not None, root_certificates=certificates, channel_args=_NO_PROXY
    ) as client:
        try:
            tensors = [_grpc_tensor(name, value) for name, value in inputs.items()]
            result = client.infer("ensemble", tensors, headers=metadata, client_timeout=TIMEOUT_S)
        except triton_grpc.InferenceServerException as error:
            return Reply({}, str(error.status()).removeprefix("StatusCode."), error.message())
    names = [output.name for output in result.get_response().outputs]
    return Reply({name: [_plain(value) for value in result.as_numpy(name).flat] for name in names}, "OK")


PROTOCOLS: dict[str, Callable[[Server, Inputs, Headers], Reply]] = {
    "HTTP /infer": send_infer,
    "HTTP /generate": send_generate,
    "gRPC": send_grpc,
}


def _post(server: Server, call: str, body: Mapping[str, Any], headers: Headers) -> dict[str, Any] | Reply:
    """The JSON of an answer, or the reply that tells why there is none."""
    url = f"{server.http_url}/v2/models/ensemble/{call}"
    try:
        answer = httpx.post(
            url, json=body, headers=dict(headers), timeout=TIMEOUT_S, trust_env=False, verify=_trust(server)
        )
    except httpx.HTTPError as error:
        return Reply({}, "", f"no answer: {error}")
    try:
        content: dict[str, Any] = answer.json()
        return content if answer.status_code == httpx.codes.OK else Reply({}, str(answer.status_code), content["error"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, say
        return Reply({}, str(answer.status_code), f"an answer that is not Triton's: {answer.text[:80]!r}")


def _trust(server: Server) -> ssl.SSLContext | bool:
    certificates = getattr(server, "root_certificates", None)
    return ssl.create_default_context(cafile=certificates) if certificates is not None else True


def _grpc_tensor(name: str, value: Any) -> triton_grpc.InferInput:
    data_type, dtype = _TYPES[name]
    array = np.array([[value.encode() if isinstance(value, str) else value]], dtype)
    return triton_grpc.InferInput(name, [1, 1], data_type).set_data_from_numpy(array)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()
