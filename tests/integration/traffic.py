"""Sends every kind of request to the no-op engine and tallies the replies, for comparison with the ledger."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from llm_policy.release.manifest import Manifest
from tests.integration.client import Answer, as_array

MAX_COST_USD = 0.00001  # 10,000 nano-dollars: 33 completion tokens at 0.3 dollars a million
_TIMEOUT_S = 60.0
_WIRE = {np.dtype(np.object_): "BYTES", np.dtype(np.int32): "INT32", np.dtype(np.float32): "FP32"}
_OUTPUTS = [
    triton_aio.InferRequestedOutput(name)
    for name in ("cost_usd", "flags", "num_input_tokens", "num_output_tokens", "finish_reason")
]


class Kind(NamedTuple):
    """One kind of request: its share of a hundred requests, its inputs and its changes to the headers."""

    share: int
    inputs: dict[str, Any]
    headers: Mapping[str, str | None] = MappingProxyType({})
    num_rows: int = 1


@dataclass
class Tally:
    """The replies that the client received, counted by row; money in nano-dollars."""

    num_requests: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    cost_nano_usd: int = 0
    costly: Counter[str] = field(default_factory=Counter)
    undeclared: list[str] = field(default_factory=list)

    def add_answer(self, kind: Kind, request_id: str, result: Any) -> None:
        """Count each row of an answer."""
        task = str(kind.inputs.get("task", "none"))
        self.outcomes[task, "settled"] += kind.num_rows
        self.tokens_in += int(result.as_numpy("num_input_tokens").sum())
        self.tokens_out += int(result.as_numpy("num_output_tokens").sum())
        self.cost_nano_usd += sum(round(cost * 1e9) for cost in result.as_numpy("cost_usd").flat)
        flags = [flag.decode() for flag in result.as_numpy("flags").flat if flag]
        self.flags.update(flags)
        self.costly[request_id] += flags.count("cost_breach")

    def add_rejection(self, kind: Kind, text: str) -> None:
        """Count each row of a rejected request."""
        code = Answer(error=text).code
        if code is None:
            self.undeclared.append(text)
            return
        self.codes[code] += kind.num_rows


def good_kinds(last_word: str) -> list[Kind]:
    """70 of a hundred requests: answered, five of them beyond a threshold.

    `last_word` is the last character of the no-op engine's fourth token.
    """
    text = "Ada Lovelace ordered 5 lamps on Monday."
    return [
        Kind(15, {"text_input": text, "max_tokens": 4}),
        Kind(15, {"text_input": text, "max_tokens": 8, "task": "generate_json"}),
        Kind(15, {"text_input": text, "max_tokens": 8, "task": "rank_candidates"}, {"X-Tenant": "acme"}),
        Kind(15, {"messages": '[{"role":"user","content":"hi"}]', "max_tokens": 2, "task": "judge"}),
        Kind(5, {"text_input": text, "max_tokens": 4}, {"X-Tenant": "globex"}, num_rows=2),
        Kind(4, {"text_input": text, "max_tokens": 64}),
        Kind(1, {"text_input": text, "max_tokens": 4, "schema_id": "order", "stop_words": [last_word]}),
    ]


def rejected_kinds() -> list[Kind]:
    """30 of a hundred requests, each kind rejected by another rule."""
    good = {"text_input": "Ada Lovelace ordered 5 lamps.", "max_tokens": 4}
    regex = {"guided_decoding_guide_type": "regex"}
    return [
        Kind(4, good, {"X-Engine-Hash": None}),
        Kind(3, good, {"X-Engine-Hash": "sha256:" + "0" * 64}),
        Kind(3, good, {"X-Quantisation": "int4_awq"}),
        Kind(2, good, {"X-Tenant": "t" * 129}),
        Kind(2, good, {"X-Tenant": "llmstack-canary"}),
        Kind(3, {**good, "temperature": -1.0}),
        Kind(2, {**good, "text_input": ""}),
        Kind(2, {**good, "task": "write_poems"}),
        Kind(2, {**good, "schema_id": "nowhere"}),
        Kind(2, {**good, "guided_decoding_guide_type": "poem", "guided_decoding_guide": "x"}),
        Kind(2, {**good, **regex, "guided_decoding_guide": "["}),
        Kind(1, {**good, **regex, "guided_decoding_guide": "(" * 100 + ")" * 100}),
        Kind(1, {**good, "max_tokens": 6_000}),
        Kind(1, {**good, "schema_id": "nowhere"}, num_rows=2),
    ]


async def send_all(grpc_url: str, manifest: Manifest, num_requests: int, concurrency: int, tally: Tally) -> None:
    """Send `num_requests` requests, interleaved in the same order each time, and tally every reply."""
    valid_headers = {"X-Engine-Hash": manifest.engine.hash, "X-Quantisation": manifest.engine.quantisation}
    async with triton_aio.InferenceServerClient(grpc_url) as client:
        kinds = interleaved([*good_kinds(await _last_word(client, valid_headers, tally)), *rejected_kinds()])
        built = [(kind, _tensors(kind), _metadata(valid_headers, kind)) for kind in kinds]
        waiting = iter(itertools.islice(itertools.cycle(built), num_requests))
        await asyncio.gather(*(_send_some(client, waiting, tally) for _ in range(concurrency)))


def interleaved(kinds: list[Kind]) -> list[Kind]:
    """A hundred requests with every kind spread evenly."""
    places = [((number + 0.5) / kind.share, index) for index, kind in enumerate(kinds) for number in range(kind.share)]
    return [kinds[index] for _, index in sorted(places)]


async def _send_some(client: Any, waiting: Any, tally: Tally) -> None:
    for kind, tensors, metadata in waiting:
        tally.num_requests += 1
        request_id = f"r-{tally.num_requests}"
        headers = {**metadata, "x-request-id": request_id}
        try:
            result = await client.infer(
                "ensemble", tensors, outputs=_OUTPUTS, headers=headers, client_timeout=_TIMEOUT_S
            )
        except InferenceServerException as error:
            tally.add_rejection(kind, error.message())
        else:
            tally.add_answer(kind, request_id, result)


async def _last_word(client: Any, valid_headers: dict[str, str], tally: Tally) -> str:
    """The last character of the no-op engine's fourth token, from a request that is tallied too."""
    kind = Kind(1, {"text_input": "x", "max_tokens": 4})
    result = await client.infer("ensemble", _tensors(kind), headers=_metadata(valid_headers, kind))
    tally.num_requests += 1
    tally.add_answer(kind, "", result)
    return str(result.as_numpy("text_output")[0, 0].decode()[-1])


def _tensors(kind: Kind) -> list[Any]:
    tensors = []
    for name, value in kind.inputs.items():
        array = np.repeat(as_array(name, value), kind.num_rows, axis=0)
        tensors.append(triton_aio.InferInput(name, list(array.shape), _WIRE[array.dtype]).set_data_from_numpy(array))
    return tensors


def _metadata(valid_headers: dict[str, str], kind: Kind) -> dict[str, str]:
    merged = {**valid_headers, **kind.headers}
    return {name.lower(): value for name, value in merged.items() if value is not None}
