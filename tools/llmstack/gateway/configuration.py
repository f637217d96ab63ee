"""HAProxy's configuration: rendered from a template, checked by HAProxy, and written with the gRPC guard."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from llmstack.gateway.backend import Address, Backend

GUARD_FILE = "guard.lua"
# The guard's modules. HAProxy finds them beside the guard.
MODULE_FILES = (
    *("api_key.lua", "ensemble.lua", "grpc_answers.lua", "grpc_reader.lua", "in_flight.lua", "json_reader.lua"),
    "request_rules.lua",
)
GET_PATHS = (
    *("/v2/health/live", "/v2/health/ready"),
    *("/v2/models/ensemble/ready", "/v2/models/ensemble_stream/ready"),
)
# Triton refuses `infer` for a model that streams.
POST_PATHS = (
    *(f"/v2/models/ensemble/{call}" for call in ("infer", "generate", "generate_stream")),
    *(f"/v2/models/ensemble_stream/{call}" for call in ("generate", "generate_stream")),
)
# The OpenAI API.
OPENAI_POST_PATHS, OPENAI_GET_PATHS = ("/v1/chat/completions", "/v1/completions"), ("/v1/models",)
# One model, whose name may have a colon and slashes, as they are or escaped.
OPENAI_MODEL_PATH = "^/v1/models/([A-Za-z0-9._:/-]|%3[Aa]|%2[Ff]){1,256}$"
# The only path with a query.
OPENAI_USAGE_PATH = "^/v1/usage([?][A-Za-z0-9._=&%+-]{0,512})?$"
GRPC_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ServerLive", "ServerReady")
# The tensors of the models: perf_analyzer needs them, clients do not.
METADATA_PATHS, METADATA_METHOD = ("/v2/models/ensemble", "/v2/models/ensemble_stream"), "ModelMetadata"
# A body of this size fits into one buffer of HAProxy (16 KiB) whatever its headers are.
MAX_BUFFERED_BODY_BYTES = 8_192

# 6,000 tokens, the usual maximum of a release, at 20 tokens a second.
DEFAULT_MAX_ANSWER_S = 300

_TEMPLATE_DIR = Path(__file__).parent
# One word of HAProxy's configuration language: no space, quote, comment, variable or escape.
_WORD = re.compile(r"[A-Za-z0-9_./:@\[\]*-]+")


class GatewayError(ValueError):
    """The configuration can't be rendered, or HAProxy rejects it."""


@dataclass(frozen=True)
class Limits:
    """What clients may use. Four rows of 4,096 tokens of 128 bytes, each with a guide, are a request of about 3 MiB."""

    max_request_bytes: int = 4 * 2**20
    max_connections: int = 2_000
    max_client_connections: int = 64
    max_client_requests_per_10_s: int = 1_000
    # Half of `engine.max_queue_size` of one server: the other half is for other clients.
    max_client_in_flight: int = 32
    abandoned_s: int = 60
    max_header_s: int = 5
    max_body_s: int = 20
    max_answer_s: int = DEFAULT_MAX_ANSWER_S
    max_stream_idle_s: int = DEFAULT_MAX_ANSWER_S


@dataclass(frozen=True)
class GatewayConfiguration:
    """The backends, the gateway's own addresses and its limits. Paths are those on HAProxy's machine.

    The OpenAI API is that of the backends, unless `openai_servers` names others. With `requires_api_keys` a request
    without something of a key's form is rejected before a server sees it.
    """

    backends: Sequence[Backend]
    certificate: str
    guard: str
    host: str = "*"
    http_port: int = 8443
    grpc_port: int = 8444
    metrics_address: str = "127.0.0.1:8405"
    ready_path: str = "/readyz"
    limits: Limits = field(default_factory=Limits)
    allow_metadata: bool = False
    accept_proxy: bool = False
    exposes_grpc: bool = True
    exposes_openai: bool = True
    openai_servers: Sequence[Address] = ()
    requires_api_keys: bool = False

    @property
    def socket_prefix(self) -> str:
        """The prefix of HAProxy's abstract sockets to itself; unique for each gateway on a machine."""
        return f"llmstack-gateway-{self.http_port}-{self.grpc_port}"

    def render(self) -> str:
        """The text of haproxy.cfg.

        Raises:
            GatewayError: there is no backend, or a value is not a single word of HAProxy's language.
        """
        if not self.backends:
            raise GatewayError("the gateway has no server: give at least one --backend")
        words = {
            "certificate": self.certificate,
            "host": self.host,
            "metrics address": self.metrics_address,
            "ready path": self.ready_path,
            "guard": self.guard,
        }
        for name, word in words.items():
            if not _WORD.fullmatch(word):
                raise GatewayError(f"{name} {word!r} has a character that is not allowed in HAProxy's configuration")
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import

        template = Environment(
            loader=FileSystemLoader(_TEMPLATE_DIR),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - the output is not HTML, and every word was checked above
        ).get_template("haproxy.cfg.j2")
        return template.render(
            vars(self),
            guard_directory=str(PurePosixPath(self.guard).parent),
            socket_prefix=self.socket_prefix,
            get_paths=GET_PATHS + (METADATA_PATHS if self.allow_metadata else ()),
            post_paths=POST_PATHS,
            openai_get_paths=OPENAI_GET_PATHS,
            openai_post_paths=OPENAI_POST_PATHS,
            openai_model_path=OPENAI_MODEL_PATH,
            openai_usage_path=OPENAI_USAGE_PATH,
            grpc_methods=GRPC_METHODS + ((METADATA_METHOD,) if self.allow_metadata else ()),
            max_buffered_body_bytes=MAX_BUFFERED_BODY_BYTES,
        )


def write_configuration(
    configuration: GatewayConfiguration, output: Path, find_errors: Callable[[Path], str] | None = None
) -> Path:
    """Write the configuration to `output`, and the guard with its modules beside it, each atomically.

    Returns the guard's path.

    `find_errors` checks the new configuration before it replaces an existing one.

    Raises:
        GatewayError: see `GatewayConfiguration.render`; or `find_errors` found an error.
        OSError: a file can't be written.
    """
    guard = output.resolve().with_name(GUARD_FILE)
    text = configuration.render()
    guard.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gateway-", dir=guard.parent) as directory:
        new_output = Path(directory, output.name)
        for name in (*MODULE_FILES, GUARD_FILE):
            Path(directory, name).write_text((_TEMPLATE_DIR / name).read_text(encoding="utf-8"), encoding="utf-8")
        if find_errors is not None:
            # The check must load the new guard, not one that is already in place.
            checked = replace(configuration, guard=f"{directory}/{GUARD_FILE}")
            new_output.write_text(checked.render(), encoding="utf-8")
            if errors := find_errors(new_output):
                raise GatewayError(f"haproxy rejects the configuration; {output} is unchanged:\n{errors}")
        new_output.write_text(text, encoding="utf-8")
        for name in (*MODULE_FILES, GUARD_FILE, output.name):
            path = Path(directory, name)
            path.chmod(0o644)
            path.replace(guard.with_name(name))
    return guard


def haproxy_errors(configuration: Path, haproxy: str = "haproxy") -> str:
    """The output of `haproxy -c` for an invalid configuration; empty for a valid one.

    Raises:
        GatewayError: the program can't be run.
    """
    try:
        check = subprocess.run([haproxy, "-c", "-f", str(configuration)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise GatewayError(f"{haproxy} can't be run: {error.strerror}") from None
    return "" if check.returncode == 0 else (check.stderr + check.stdout).strip()
