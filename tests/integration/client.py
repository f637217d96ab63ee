"""A client of the ensemble for each protocol, built on the real client libraries."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc

from llm_policy.errors import find_code
from llm_policy.release.release import Release
from llm_policy.triton.tensors import ENSEMBLE_INPUTS

_SPECS = {spec.name: spec for spec in ENSEMBLE_INPUTS}
_DTYPES = {
    "TYPE_STRING": ("BYTES", np.object_),
    "TYPE_INT32": ("INT32", np.int32),
    "TYPE_FP32": ("FP32", np.float32),
    "TYPE_UINT64": ("UINT64", np.uint64),
    "TYPE_BOOL": ("BOOL", np.bool_),
}
TIMEOUT_S = 60.0


@dataclass
class Answer:
    """Outputs by name (one row's only value, or the array's rows), or the server's error text."""

    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    status: Any = None

    @property
    def code(self) -> str | None:
        """The declared code at the beginning of the error, or None."""
        code = find_code(self.error or "")
        return code.value if code else None

    def __getitem__(self, name: str) -> Any:
        assert self.error is None, self.error
        return self.outputs[name]


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as the input's array; a scalar or a list of words is one row."""
    if isinstance(value, np.ndarray):
        return value
    values = value if isinstance(value, list) else [value]
    coded = [v.encode() if isinstance(v, str) else v for v in values]
    return np.array([coded], _DTYPES[_SPECS[name].data_type][1]).reshape(1, len(coded))


class Client:
    """`protocol` is http (`/infer`), grpc or generate (`/generate`, headers in the body)."""

    def __init__(self, server: Any, protocol: str) -> None:
        self._server = server
        self._send = {"http": self._http, "grpc": self._grpc, "generate": self._generate}[protocol]
        manifest = Release.open(server.release_dir).manifest
        self.headers = {"X-Engine-Hash": manifest.engine.hash, "X-Quantisation": manifest.engine.quantisation}

    def send(self, inputs: dict[str, Any], headers: Any = None, model: str = "ensemble") -> Answer:
        """Send one request. A dict of `headers` overrides the valid ones (None drops one), a list replaces them."""
        if isinstance(headers, dict) or headers is None:
            merged = {**self.headers, **(headers or {})}
            headers = [(name, value) for name, value in merged.items() if value is not None]
        return self._send(inputs, headers, model)

    def _http(self, inputs: dict[str, Any], headers: list[tuple[str, Any]], model: str) -> Answer:
        sizes, blobs = [], []
        for name, value in inputs.items():
            blob = _raw(as_array(name, value))
            shape = list(as_array(name, value).shape)
            datatype = _DTYPES[_SPECS[name].data_type][0]
            parameters = {"binary_data_size": len(blob)}
            sizes.append({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters})
            blobs.append(blob)
        head = json.dumps({"inputs": sizes}).encode()
        length = ("Inference-Header-Content-Length", str(len(head)))
        reply = self._post(f"{model}/infer", head + b"".join(blobs), [*headers, length])
        if reply.status_code != 200:
            return Answer(error=reply.json()["error"], status=reply.status_code)
        outputs = {o["name"]: _unwrap(np.array(o["data"], object).reshape(o["shape"])) for o in reply.json()["outputs"]}
        return Answer(outputs, status=200)

    def _generate(self, inputs: dict[str, Any], headers: list[tuple[str, Any]], model: str) -> Answer:
        reply = self._post(f"{model}/generate", json.dumps({**inputs, **dict(headers)}).encode(), [])
        if reply.status_code != 200:
            return Answer(error=reply.json()["error"], status=reply.status_code)
        return Answer(reply.json(), status=200)

    def _post(self, path: str, body: bytes, headers: list[tuple[str, Any]]) -> httpx.Response:
        url = f"http://{self._server.http_url.removeprefix('http://')}/v2/models/{path}"
        return httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_S)

    def _grpc(self, inputs: dict[str, Any], headers: list[tuple[str, Any]], model: str) -> Answer:
        tensors = []
        for name, value in inputs.items():
            array = as_array(name, value)
            tensor = triton_grpc.InferInput(name, list(array.shape), _DTYPES[_SPECS[name].data_type][0])
            tensors.append(tensor.set_data_from_numpy(array))
        metadata = {name.lower(): value for name, value in headers}
        with triton_grpc.InferenceServerClient(self._server.grpc_url) as client:
            try:
                result = client.infer(model, tensors, headers=metadata, client_timeout=TIMEOUT_S)
            except triton_grpc.InferenceServerException as error:
                return Answer(error=error.message(), status=error.status())
        names = [output.name for output in result.get_response().outputs]
        return Answer({name: _unwrap(result.as_numpy(name)) for name in names}, status="OK")


def start_call(client: triton_grpc.InferenceServerClient, server: Any, num_tokens: int, tenant: str = "") -> Any:
    """Start a call with an answer of exactly `num_tokens` tokens, to be ended with `cancel`."""
    headers = {name.lower(): value for name, value in server.headers.items()}
    if tenant:
        headers["x-tenant"] = tenant
    tensors = tensors_of_call(num_tokens)
    return client.async_infer("ensemble", tensors, lambda result, error: None, headers=headers)


def tensors_of_call(num_tokens: int) -> list[triton_grpc.InferInput]:
    """The inputs of a request with an answer of exactly `num_tokens` tokens."""
    values = {"text_input": "hello", "max_tokens": num_tokens, "min_tokens": num_tokens}
    tensors = []
    for name, value in values.items():
        array = as_array(name, value)
        tensor = triton_grpc.InferInput(name, [1, 1], _DTYPES[_SPECS[name].data_type][0])
        tensors.append(tensor.set_data_from_numpy(array))
    return tensors


def _raw(array: np.ndarray) -> bytes:
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1).tolist())


def _unwrap(array: np.ndarray) -> Any:
    """The only value of a [1, 1] array, else nested lists; bytes become text."""
    values = _texts(array.tolist())
    return values[0][0] if array.shape == (1, 1) else values


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
