"""HAProxy's configuration, from a template and what an operator may choose."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llmstack.door.backend import Backend

GUARD = "grpc_guard.lua"
GET_PATHS = ("/v2/health/live", "/v2/health/ready", "/v2/models/ensemble", "/v2/models/ensemble/ready")
POST_PATHS = tuple(f"/v2/models/ensemble/{call}" for call in ("infer", "generate", "generate_stream"))
GRPC_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ServerLive", "ServerReady")

_HERE = Path(__file__).parent
# What HAProxy reads as one word, whatever stands around it.
_WORD = re.compile(r"[A-Za-z0-9_./:@\[\]*-]+")


class DoorError(ValueError):
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
    max_answer_s: int = 120


@dataclass(frozen=True)
class Door:
    """Where the door listens and where it leads. Its paths are those that HAProxy's machine knows."""

    backends: Sequence[Backend]
    certificate: str
    guard: str
    host: str = "*"
    http_port: int = 8443
    grpc_port: int = 8444
    metrics_address: str = "127.0.0.1:8405"
    ready_path: str = "/readyz"
    limits: Limits = field(default_factory=Limits)

    def render(self) -> str:
        """The configuration's text.

        Raises:
            DoorError: there is no backend, or a value is more than one word of HAProxy's language.
        """
        if not self.backends:
            raise DoorError("the door leads nowhere: name one --backend at least")
        words = {
            "certificate": self.certificate,
            "host": self.host,
            "metrics address": self.metrics_address,
            "ready path": self.ready_path,
            "guard": self.guard,
        }
        for name, word in words.items():
            if not _WORD.fullmatch(word):
                raise DoorError(f"{name} {word!r} has a character that HAProxy's configuration can't carry")
        template = Environment(
            loader=FileSystemLoader(_HERE),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - no HTML; every word was checked above
        ).get_template("haproxy.cfg.j2")
        return template.render(vars(self), get_paths=GET_PATHS, post_paths=POST_PATHS, grpc_methods=GRPC_METHODS)


def write_door(door: Door, output: Path) -> Path:
    """Write the configuration to `output` and the guard beside it, each whole or not at all; the guard's path here.

    Raises:
        DoorError: see `Door.render`.
        OSError: a file can't be written.
    """
    guard = output.resolve().with_name(GUARD)
    text = door.render()
    for path, content in ((guard, (_HERE / GUARD).read_text(encoding="utf-8")), (output, text)):
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(path)
    return guard


def find_faults(configuration: Path, haproxy: str = "haproxy") -> str:
    """What `haproxy -c` says against the configuration; empty when it is fine.

    Raises:
        DoorError: there is no such program.
    """
    try:
        check = subprocess.run([haproxy, "-c", "-f", str(configuration)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise DoorError(f"{haproxy} can't be run: {error.strerror}") from None
    return "" if check.returncode == 0 else (check.stderr + check.stdout).strip()
