"""HAProxy's configuration, from a template and what an operator may choose."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llmstack.gateway.backend import Backend

GUARD = "grpc_guard.lua"
GET_PATHS = ("/v2/health/live", "/v2/health/ready", "/v2/models/ensemble/ready")
POST_PATHS = tuple(f"/v2/models/ensemble/{call}" for call in ("infer", "generate", "generate_stream"))
GRPC_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ServerLive", "ServerReady")
# The ensemble's tensors: perf_analyzer asks for them, clients need not.
METADATA_PATH, METADATA_METHOD = "/v2/models/ensemble", "ModelMetadata"
# A body of this size is whole in a buffer of HAProxy, whatever headers come with it.
WHOLE_BYTES = 8_192

# An answer of 6,000 tokens, a release's usual most, at 20 tokens a second.
DEFAULT_MAX_ANSWER_S = 300

_HERE = Path(__file__).parent
# What HAProxy reads as one word, whatever stands around it.
_WORD = re.compile(r"[A-Za-z0-9_./:@\[\]*-]+")


class GatewayError(ValueError):
    """No configuration can be made of this."""


@dataclass(frozen=True)
class Limits:
    """What one client may take. Four rows of 4,096 tokens of 128 bytes, each with a guide, are some 3 MiB."""

    max_request_bytes: int = 4 * 2**20
    max_connections: int = 2_000
    max_client_connections: int = 64
    max_client_requests_per_10_s: int = 1_000
    max_header_s: int = 5
    max_body_s: int = 20
    max_answer_s: int = DEFAULT_MAX_ANSWER_S
    max_stream_idle_s: int = DEFAULT_MAX_ANSWER_S


@dataclass(frozen=True)
class Gateway:
    """Where the gateway listens and where it leads. Its paths are those that HAProxy's machine knows."""

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

    @property
    def inside(self) -> str:
        """The name under which HAProxy reaches itself: another one for each gateway of a machine."""
        return f"llmstack-gateway-{self.http_port}-{self.grpc_port}"

    def render(self) -> str:
        """The configuration's text.

        Raises:
            GatewayError: there is no backend, or a value is more than one word of HAProxy's language.
        """
        if not self.backends:
            raise GatewayError("the gateway leads nowhere: name one --backend at least")
        words = {
            "certificate": self.certificate,
            "host": self.host,
            "metrics address": self.metrics_address,
            "ready path": self.ready_path,
            "guard": self.guard,
        }
        for name, word in words.items():
            if not _WORD.fullmatch(word):
                raise GatewayError(f"{name} {word!r} has a character that HAProxy's configuration can't carry")
        template = Environment(
            loader=FileSystemLoader(_HERE),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - no HTML; every word was checked above
        ).get_template("haproxy.cfg.j2")
        return template.render(
            vars(self),
            inside=self.inside,
            get_paths=GET_PATHS + ((METADATA_PATH,) if self.allow_metadata else ()),
            post_paths=POST_PATHS,
            grpc_methods=GRPC_METHODS + ((METADATA_METHOD,) if self.allow_metadata else ()),
            whole_bytes=WHOLE_BYTES,
        )


def write_gateway(gateway: Gateway, output: Path, check: Callable[[Path], str] | None = None) -> Path:
    """Write the configuration to `output` and the guard beside it, each whole or not at all; the guard's path here.

    `check` says what is wrong with a configuration, before it takes the place of what was there.

    Raises:
        GatewayError: see `Gateway.render`; or `check` found a fault.
        OSError: a file can't be written.
    """
    guard = output.resolve().with_name(GUARD)
    text = gateway.render()
    guard.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gateway-", dir=guard.parent) as fresh:
        fresh_guard, fresh_output = Path(fresh, GUARD), Path(fresh, output.name)
        fresh_guard.write_text((_HERE / GUARD).read_text(encoding="utf-8"), encoding="utf-8")
        # The check reads the guard that will lie there.
        fresh_output.write_text(text.replace(str(guard), str(fresh_guard)), encoding="utf-8")
        if check is not None and (faults := check(fresh_output)):
            raise GatewayError(f"haproxy refuses the configuration, and {output} stays as it was:\n{faults}")
        fresh_output.write_text(text, encoding="utf-8")
        for path in (fresh_guard, fresh_output):
            path.chmod(0o644)
            path.replace(guard.with_name(path.name))
    return guard


def find_faults(configuration: Path, haproxy: str = "haproxy") -> str:
    """What `haproxy -c` says against the configuration; empty when it is fine.

    Raises:
        GatewayError: there is no such program.
    """
    try:
        check = subprocess.run([haproxy, "-c", "-f", str(configuration)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise GatewayError(f"{haproxy} can't be run: {error.strerror}") from None
    return "" if check.returncode == 0 else (check.stderr + check.stdout).strip()
