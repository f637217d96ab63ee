"""Requests whose sender is not who it claims to be, over every protocol, and what a server answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import grpc
import httpx
from tritonclient.grpc import service_pb2, service_pb2_grpc

from llm_policy.errors import find_code
from tests.integration.live_service import LiveService

TIMEOUT_S = 60.0
AUTHORIZATION, API_KEY, TENANT = "Authorization", "X-Api-Key", "X-Tenant"
INPUTS: dict[str, Any] = {"text_input": "hello", "max_tokens": 4}
Headers = Sequence[tuple[str, Any]]


class Outcome(NamedTuple):
    """What the client got: `text` is everything, for a search; `code` is the declared code of an error."""

    is_ok: bool
    code: str
    text: str


@dataclass(frozen=True)
class Attack:
    """A request; texts may name keys and tenants in braces, which `Scene.fill` replaces.

    `codes` are the declared codes of which each protocol of `protocols` answers one; empty where something else than
    the policy rejects the request.
    """

    name: str
    headers: Headers = ()
    codes: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    protocols: tuple[str, ...] = ()
    model: str = ""
    query: str = ""
    request_id: str = ""
    parameters: Headers = ()
    """Of the protocol's own, beside the headers: in the body of `/infer`, in the message of gRPC."""
    real_headers: Headers = ()
    """HTTP headers beside the body of `/generate`, which Triton does not forward."""
    victim: str = "acme"
    """Whose name no row of the ledger may get."""
    has_key: bool = False
    """Whether the sender has the key of the tenant whose it is, so that it may know this tenant's usage."""

    def filled(self, fill: Callable[[str], str]) -> Attack:
        """The attack with its texts replaced."""

        def fill_all(headers: Headers) -> Headers:
            return [(fill(name), fill(value) if isinstance(value, str) else value) for name, value in headers]

        return replace(
            self,
            headers=fill_all(self.headers),
            inputs={fill(name): fill(value) for name, value in self.inputs.items()},
            model=fill(self.model),
            query=fill(self.query),
            request_id=fill(self.request_id),
            parameters=fill_all(self.parameters),
            real_headers=fill_all(self.real_headers),
        )


def send_infer(service: LiveService, attack: Attack) -> Outcome:
    """HTTP `/infer`: headers as HTTP headers."""
    inputs = {**INPUTS, **attack.inputs}
    body: dict[str, Any] = {"inputs": [_http_tensor(name, value) for name, value in inputs.items()]}
    if attack.request_id:
        body["id"] = attack.request_id
    if attack.parameters:
        body["parameters"] = dict(attack.parameters)
    return _post(service, f"/v2/models/{attack.model or 'ensemble'}/infer{attack.query}", body, attack)


def send_generate(service: LiveService, attack: Attack, call: str = "generate", model: str = "ensemble") -> Outcome:
    """HTTP `/generate`: headers as members of the body, of which one name may come twice."""
    members: list[tuple[str, Any]] = [*{**INPUTS, **attack.inputs}.items(), *_headers(service, attack)]
    members += [("id", attack.request_id)] if attack.request_id else []
    body = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}"
    url = f"{service.http_url}/v2/models/{attack.model or model}/{call}{attack.query}"
    return _outcome(httpx.post(url, content=body.encode(), headers=list(attack.real_headers), timeout=TIMEOUT_S))


def send_generate_stream(service: LiveService, attack: Attack) -> Outcome:
    """HTTP `/generate_stream` of the streaming model."""
    return send_generate(service, attack, "generate_stream", "ensemble_stream")


def send_grpc(service: LiveService, attack: Attack) -> Outcome:
    """gRPC `ModelInfer`: headers as metadata."""
    with _stub(service) as stub:
        try:
            call = stub.ModelInfer(_grpc_request(attack, "ensemble"), metadata=_metadata(service, attack))
        except grpc.RpcError as error:
            return _grpc_error(error)
        return Outcome(True, "", str(call))


def send_grpc_stream(service: LiveService, attack: Attack) -> Outcome:
    """gRPC `ModelStreamInfer` of the streaming model."""
    with _stub(service) as stub:
        requests = iter([_grpc_request(attack, "ensemble_stream")])
        try:
            answers = list(stub.ModelStreamInfer(requests, metadata=_metadata(service, attack), timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            return _grpc_error(error)
    text = "\n".join(str(answer) for answer in answers)
    errors = [answer.error_message for answer in answers if answer.error_message]
    return Outcome(not errors, _code(errors[0]) if errors else "", text)


def send_openai(service: LiveService, attack: Attack) -> Outcome:
    """The OpenAI API."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": attack.inputs.get("text_input", "hello")}]}
    body |= {"model": attack.model or "ensemble", "max_tokens": 4}
    body |= {name: value for name, value in attack.inputs.items() if name not in INPUTS}
    return _post(service, f"/v1/chat/completions{attack.query}", body, attack, service.openai_port)


PROTOCOLS: dict[str, Callable[[LiveService, Attack], Outcome]] = {
    "infer": send_infer,
    "generate": send_generate,
    "generate_stream": send_generate_stream,
    "grpc": send_grpc,
    "grpc_stream": send_grpc_stream,
    "openai": send_openai,
}


def _headers(service: LiveService, attack: Attack) -> list[tuple[str, Any]]:
    """The attack's headers, and the engine's where it has none of these names."""
    given = {name.lower() for name, _ in attack.headers}
    return [*(pair for pair in service.headers.items() if pair[0].lower() not in given), *attack.headers]


def _post(service: LiveService, path: str, body: Any, attack: Attack, port: int = 0) -> Outcome:
    encoded = [(name.encode(), value.encode()) for name, value in _headers(service, attack)]
    url = f"http://127.0.0.1:{port or service.http_port}{path}"
    try:
        return _outcome(httpx.post(url, json=body, headers=encoded, timeout=TIMEOUT_S))
    except httpx.RemoteProtocolError as error:  # the server's HTTP parser rejects it
        return Outcome(False, "", str(error))


def _outcome(response: httpx.Response) -> Outcome:
    text = f"{response.headers}\n{response.text}"
    if response.status_code == 200 and '"error"' not in response.text:
        return Outcome(True, "", text)
    return Outcome(False, _code(_error_text(response)), text)


def _error_text(response: httpx.Response) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(response.text.removeprefix("data: "))["error"]
        return f"{error['code']}: {error['message']}" if isinstance(error, dict) else str(error)
    return response.text


def _code(text: str) -> str:
    code = find_code(text)
    return code.value if code else ""


@contextlib.contextmanager
def _stub(service: LiveService) -> Any:
    with grpc.insecure_channel(service.grpc_url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _metadata(service: LiveService, attack: Attack) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in _headers(service, attack)]


def _grpc_error(error: grpc.RpcError) -> Outcome:
    call: Any = error
    return Outcome(False, _code(call.details()), f"{call.code()} {call.details()} {call.trailing_metadata()}")


def _grpc_request(attack: Attack, model: str) -> Any:
    inputs = {**INPUTS, **attack.inputs}
    request = service_pb2.ModelInferRequest(model_name=attack.model or model, id=attack.request_id)
    for name, value in inputs.items():
        tensor = request.inputs.add(name=name, datatype=_data_type(value), shape=[1, 1])
        if isinstance(value, int):
            tensor.contents.int_contents.append(value)
        else:
            tensor.contents.bytes_contents.append(value.encode())
    for name, value in attack.parameters:
        request.parameters[name].string_param = value
    return request


def _http_tensor(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1, 1], "datatype": _data_type(value), "data": [value]}


def _data_type(value: Any) -> str:
    return "INT32" if isinstance(value, int) else "BYTES"
