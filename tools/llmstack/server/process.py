"""One `tritonserver` process, from its start to the end of its last child."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ensemble_stream.stream_engine import TENSORRT_LLM_ADDRESS
from llm_policy.release.release import RELEASE_FINGERPRINT
from llmstack.paths import DEFAULT_RELEASE_DIR, MODEL_REPOSITORY
from llmstack.server.binary import ServerBinary, find_server_binary
from llmstack.server.command import (
    ENGINES,
    STREAM_MODEL,
    UNARY,
    Tracing,
    admin_flags,
    entry_model,
    model_flags,
    network_flags,
    server_environment,
    trace_flags,
)
from llmstack.server.engine_process import POLL_TIMEOUT_S, EngineProcess
from llmstack.server.engines import DEFAULT_START_TIMEOUT_S as DEFAULT_START_TIMEOUT_S
from llmstack.server.error import ServerStartError
from llmstack.server.log import failure_reasons
from llmstack.server.ports import FREE_PORTS, Ports
from llmstack.server.process_group import kill_group, launcher
from llmstack.server.shared_memory import record_regions, remove_regions

LOG_NAME = "tritonserver.log"
# Environment variables by which the stubs know their server.
BOOT_ID, CANARY_TOKEN = "LLMSTACK_BOOT_ID", "LLMSTACK_CANARY_TOKEN"
REQUIRE_API_KEYS = "LLMSTACK_REQUIRE_API_KEYS"
_ENGINE_MODEL = "tensorrt_llm"
_POLL_S = 0.1
_KILL_AFTER_S = 10.0  # beyond `exit_timeout_s`, the server's own wait for requests in flight
_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


@dataclass
class TritonServer:
    """A server on one release: `with TritonServer(release_dir) as server:` starts it, waits for it and stops it.

    `ports` of 0 become free ones at the start. Without `state_dir` the server gets a temporary one, deleted at its end.
    The server counts as ready only when `readiness_model` is ready, by default the `entry_model`. A stopped server may
    be started again. An engine that runs in a process of its own is started and stopped with the server, unless
    `engine_process` is given; then it is its owner's. With `requires_api_keys` a request needs the key of a tenant.

    Fields for a parent process that supervises the server:

    - `metrics_host`: where Triton's own metrics listen, if not on `host`
    - `appends_log`: append to the log of earlier starts
    - `death_signal`: the signal that the server receives when this process dies
    - `inherited_fds`: file descriptors that the server and its stubs keep open
    - `release_fingerprint`: of a release whose files are verified (`Release.verify_files`), so that the stubs need not
      hash the engine again
    """

    release_dir: Path = DEFAULT_RELEASE_DIR
    engine: str = "embedded"
    engine_options: Mapping[str, str] = field(default_factory=dict)
    engine_process: EngineProcess | None = None
    tensorrt_llm_mode: str = UNARY
    model_repository: Path = MODEL_REPOSITORY
    extra_model_repositories: Sequence[Path] = ()
    state_dir: Path | None = None
    host: str = "127.0.0.1"
    ports: Ports = FREE_PORTS
    metrics_host: str | None = None
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    canary_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    requires_api_keys: bool = False
    readiness_model: str = ""
    exit_timeout_s: int = 30
    log_verbose: int = 0
    tracing: Tracing | None = None
    appends_log: bool = False
    death_signal: signal.Signals = signal.SIGTERM
    inherited_fds: Sequence[int] = ()
    release_fingerprint: str = ""
    binary: ServerBinary | None = None
    boot_id: str = field(default="", init=False)
    log_start: int = field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _owns_engine: bool = field(default=False, init=False, repr=False)
    _is_state_temporary: bool = field(default=False, init=False, repr=False)
    _cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)

    def __enter__(self) -> TritonServer:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """`http://host:port` of the HTTP protocol."""
        return f"http://{self._local_host}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """`host:port` of gRPC, as its clients take it."""
        return f"{self._local_host}:{self.ports.grpc}"

    @property
    def entry_model(self) -> str:
        """The model that answers every request: `ensemble`, or `ensemble_stream` before an engine that only streams."""
        return entry_model(self.engine, self.tensorrt_llm_mode)

    @property
    def metrics_url(self) -> str:
        """The URL that Prometheus scrapes."""
        return f"http://{client_host(self.metrics_host or self.host)}:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """The server's process id, which is its process group's id too."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The output of the server and its models; with `appends_log` this start's lines begin at `log_start`."""
        if self.state_dir is None:
            raise RuntimeError("the server was not started")
        return self.state_dir / LOG_NAME

    @property
    def is_running(self) -> bool:
        """Whether the server process is alive; its models may still not answer."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process under a new `boot_id`, without waiting until it is ready.

        Call this from a thread that lives as long as the server: the server ends with that thread.

        Raises:
            ServerStartError: no server binary, none with this engine's backend, or a port is in use.
        """
        binary = self.binary or find_server_binary()
        binary.check_backend(ENGINES[self.engine].backend)
        self.ports = self.ports.choose(self.host)
        state_dir = self._make_state_dir()
        command = self._command(binary, binary.lay_out_backends(state_dir))
        self._start_engine(state_dir)
        remove_regions(state_dir)
        self.boot_id = str(uuid.uuid4())
        environment = {
            **server_environment(binary, self.release_dir.resolve(), state_dir, self.engine),
            BOOT_ID: self.boot_id,
            CANARY_TOKEN: self.canary_token,
            REQUIRE_API_KEYS: str(int(self.requires_api_keys)),
            RELEASE_FINGERPRINT: self.release_fingerprint,
            TENSORRT_LLM_ADDRESS: self.grpc_url if self.entry_model == STREAM_MODEL else "",
        }
        with self.log_path.open("ab") as log:
            if not self.appends_log:
                log.truncate(0)
            self.log_start = log.tell()
            self._process = subprocess.Popen(
                [*launcher(self.death_signal), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=tuple(self.inherited_fds),
                start_new_session=True,  # Ctrl-C in a terminal goes to this process only
            )

    def wait_ready(
        self, timeout_s: float = DEFAULT_START_TIMEOUT_S, on_poll: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until the server and its `readiness_model` are ready; `on_poll` may raise to abandon the wait.

        Raises:
            ServerStartError: the server ended, with the reasons from its log, or took longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        if self._owns_engine and self.engine_process is not None:
            self.engine_process.wait_ready(timeout_s, on_poll)
        with httpx.Client(base_url=self.http_url, timeout=5, verify=False, trust_env=False) as client:  # noqa: S501
            while not (self._is_ready(client) and self._is_engine_connected()):
                on_poll()
                if not self.is_running:
                    raise ServerStartError("\n".join(self.failure_reasons()), self._next_step)
                if time.monotonic() > deadline:
                    raise ServerStartError(f"tritonserver is not ready after {timeout_s:.0f} s", self._next_step)
                time.sleep(_POLL_S)
        record_regions(self.log_path.parent, self.pid)

    def _start_engine(self, state_dir: Path) -> None:
        serves_engine = (self.model_repository / _ENGINE_MODEL).is_dir()
        if self.engine_process is not None or not serves_engine or not ENGINES[self.engine].has_process:
            return
        self._owns_engine = True
        self.engine_process = EngineProcess(self.engine, self.release_dir, state_dir, self.engine_options)
        self._cleanup.callback(self._stop_engine)
        self.engine_process.start()

    def _stop_engine(self) -> None:
        engine, self.engine_process, self._owns_engine = self.engine_process, None, False
        if engine is not None:
            engine.stop()

    def _is_engine_connected(self) -> bool:
        """Whether this start's `tensorrt_llm` has a connection to its engine process."""
        if self.engine_process is None:
            return True
        try:
            return self.boot_id in self.engine_process.stats(POLL_TIMEOUT_S).boot_ids
        except OSError:
            return False

    def failure_reasons(self) -> list[str]:
        """The errors in this start's log, each once."""
        with self.log_path.open("rb") as log:
            # A log that was truncated since begins with this start's lines.
            log.seek(self.log_start if self.log_path.stat().st_size >= self.log_start else 0)
            return failure_reasons(log.read().decode("utf-8", "replace"))

    def stop(self) -> None:
        """Terminate the server and its children; requests in flight get `exit_timeout_s`."""
        self._end(lambda process: _terminate(process, self.exit_timeout_s + _KILL_AFTER_S))

    def kill(self) -> None:
        """Kill the server and its children; requests in flight get no answer."""
        self._end(kill_group)

    def _end(self, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        with self._cleanup.pop_all():
            if self._process is None:
                return
            record_regions(self.log_path.parent, self.pid)
            try:
                end(self._process)
            finally:
                self._process = None
                remove_regions(self.log_path.parent)

    @property
    def _next_step(self) -> str:
        if self._is_state_temporary:
            return "start again with a state directory of your own, which keeps the whole log"
        return f"read the whole log: {self.log_path}"

    @property
    def _local_host(self) -> str:
        return client_host(self.host)

    def _make_state_dir(self) -> Path:
        if self.state_dir is None:
            self.state_dir = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="llmstack-")))
            self._cleanup.callback(setattr, self, "state_dir", None)
            self._is_state_temporary = True
        self.state_dir = self.state_dir.resolve()
        self.state_dir.mkdir(parents=True, exist_ok=True)
        return self.state_dir

    def _command(self, binary: ServerBinary, backends: Path) -> list[str]:
        repositories = (self.model_repository.resolve(), *(path.resolve() for path in self.extra_model_repositories))
        return [
            str(binary.path),
            *model_flags(repositories, backends, self.engine, self.tensorrt_llm_mode),
            *network_flags(self.host, self.ports, self.metrics_host),
            *admin_flags(self.admin_key),
            *trace_flags(self.tracing),
            f"--exit-timeout-secs={self.exit_timeout_s}",
            f"--log-verbose={self.log_verbose}",
        ]

    def _is_ready(self, client: httpx.Client) -> bool:
        paths = ("/v2/health/ready", f"/v2/models/{self.readiness_model or self.entry_model}/ready")
        try:
            return all(client.get(path).status_code == 200 for path in paths)
        except httpx.HTTPError:
            return False


def client_host(host: str) -> str:
    """The host for a URL by which clients on this machine reach a server that listens on `host`."""
    host = "127.0.0.1" if host in _ANY_HOST else host
    return f"[{host}]" if ":" in host else host


def _terminate(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, then SIGKILL for the whole group: a stub that outlives its server would keep its shared memory."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        kill_group(process)
