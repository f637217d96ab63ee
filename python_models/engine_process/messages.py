"""The messages between the engine process and its clients, and how they are written: MessagePack behind its length.

A client connects to the engine's Unix socket and sends `Hello`; the engine answers `Welcome`, or `Refused` and closes.
Then the client sends `Generate`, `Abort` and `StatsRequest` in any order. The engine answers each `Generate` with
`Started`, any number of `Tokens`, and one `End`, always; an error may come without `Started`. A connection that closes
aborts its requests. Token ids are little-endian int32, log-probabilities float32. The clocks of one request are
nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 << 20
CANARY_TENANT = "llmstack-canary"  # the policy lets no client use this name
_LENGTH_BYTES = 4

T = TypeVar("T")
Reason = Literal["stop", "length", "deadline", "cancelled", "error"]


class Hello(msgspec.Struct, tag="hello", array_like=True):
    """The client's first message. `boot_id` names the server start whose ledger the requests' rows are in."""

    version: int
    engine_hash: str
    boot_id: str = ""


class Capabilities(msgspec.Struct, array_like=True):
    """What a loaded engine can do.

    `max_model_len` limits prompt and completion together, `vocab_size` the token ids; 0 is no limit. `guide_types` are
    those that it takes.
    """

    max_batch_size: int
    max_model_len: int
    vocab_size: int
    guide_types: list[str]
    log_probs: bool = True
    streaming: bool = True


class Welcome(msgspec.Struct, tag="welcome", array_like=True):
    """The engine's first message."""

    version: int
    engine_hash: str
    quantisation: str
    kind: str
    pid: int
    started_at: float  # Unix time
    capabilities: Capabilities


class Refused(msgspec.Struct, tag="refused", array_like=True):
    """The engine's first message to a client with another protocol version or another engine hash."""

    reason: str


class Sampling(msgspec.Struct, array_like=True):
    """One request's sampling parameters. The defaults are TensorRT-LLM's for an absent tensor; top_k 1 is greedy."""

    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen. As in TensorRT-LLM, top_k 0 with top_p 0 is greedy too."""
        return self.top_k == 1 or (self.top_k == 0 and self.top_p <= 0.0) or self.temperature <= 0.0


class Guide(msgspec.Struct, array_like=True):
    """What the completion must match: a structured-output backend, a guide type, and the text in its language."""

    backend: str
    kind: str
    text: str


class Generate(msgspec.Struct, tag="generate", array_like=True):
    """One completion. `id` is the client's own; an `end_id` below 0 is none; `timeout_us` of 0 is none.

    A stop sequence that the completion generates ends it and is part of it; `end_id` ends it and is not.
    """

    id: int
    input_ids: bytes
    max_tokens: int
    min_tokens: int = 1
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    stop_sequences: list[list[int]] = []
    bad_sequences: list[list[int]] = []
    end_id: int = -1
    guide: Guide | None = None
    log_probs: bool = False
    stream: bool = False
    tenant: str = ""
    ledger_id: int = 0  # of the row in the policy's ledger; 0 if it is not known
    timeout_us: int = 0

    @property
    def num_input_tokens(self) -> int:
        """The number of tokens in the prompt."""
        return len(self.input_ids) // 4

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt."""
        return read_ids(self.input_ids)


class Abort(msgspec.Struct, tag="abort", array_like=True):
    """The client no longer wants this request; its `End` has the reason `cancelled`."""

    id: int


class StatsRequest(msgspec.Struct, tag="stats", array_like=True):
    """Asks for `Stats`."""


class Started(msgspec.Struct, tag="started", array_like=True):
    """The request's first token goes through the model."""

    id: int
    queue_delay_us: int


class Tokens(msgspec.Struct, tag="tokens", array_like=True):
    """New tokens of the completion. `log_probs` is empty unless they were asked for."""

    id: int
    ids: bytes
    log_probs: bytes = b""


class End(msgspec.Struct, tag="end", array_like=True):
    """The last message about a request; `code` and `text` say why it failed. A clock that it never reached is 0."""

    id: int
    reason: Reason
    code: str = ""
    text: str = ""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    arrival_ns: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    cum_log_prob: float = 0.0


class Stats(msgspec.Struct, tag="stats", array_like=True):
    """What the engine does. `last_step_age_s` is the time since its last step, 0 while it has nothing to do.

    `boot_ids` are those of the connected clients. `streaming` counts the requests that are streams.
    """

    running: int
    waiting: int
    last_step_age_s: float
    boot_ids: list[str] = []
    streaming: int = 0


ClientMessage = Hello | Generate | Abort | StatsRequest
EngineMessage = Welcome | Refused | Started | Tokens | End | Stats

_ENCODER = msgspec.msgpack.Encoder()
_CLIENT_DECODER: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_ENGINE_DECODER: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)


class ProtocolError(Exception):
    """The other side sent something that is no message."""


def encode(message: ClientMessage | EngineMessage) -> bytes:
    """The message behind its length."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_client_message(reader: asyncio.StreamReader) -> ClientMessage:
    """The next message of a client.

    Raises:
        asyncio.IncompleteReadError, OSError: the connection closed.
        ProtocolError: it is no message.
    """
    return _decode(_CLIENT_DECODER, await _read_body(reader))


async def read_engine_message(reader: asyncio.StreamReader) -> EngineMessage:
    """The next message of the engine; raises as `read_client_message` does."""
    return _decode(_ENGINE_DECODER, await _read_body(reader))


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {length} bytes, limit {MAX_MESSAGE_BYTES}")
    return await reader.readexactly(length)


def _decode(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(str(error)) from None


def write_ids(ids: Iterable[int]) -> bytes:
    """Token ids as bytes."""
    return array("i", ids).tobytes()


def read_ids(data: bytes) -> list[int]:
    """Token ids from bytes."""
    return array("i", data).tolist()


def write_log_probs(log_probs: Iterable[float]) -> bytes:
    """Log-probabilities as bytes."""
    return array("f", log_probs).tobytes()


def read_log_probs(data: bytes) -> list[float]:
    """Log-probabilities from bytes."""
    return array("f", data).tolist()
