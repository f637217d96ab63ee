"""The sandboxed process that plans and compiles guides, one at a time.

    python -m llm_policy.guidance.compile.worker TOKENIZER_INFO GUIDANCE

TOKENIZER_INFO is the release's tokenizer_info.json, GUIDANCE the manifest's section as JSON. Each line on standard
input is a guide, `["<type>", "<text>", <is registered>]`; each line on standard output is its `GuideReport` as an
array. The first line of the output announces that the worker is ready; `{"loading": true}` and `{"loading": false}`
enclose the time in which it loads another backend for a guide.

A hostile guide may crash, hang or exhaust the worker. So it is never a Triton stub, its memory is bounded, its stack is
large enough for deep recursion, it has no network where the system allows that, and it dies with its parent.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.backends.create import create_backend
from llm_policy.guidance.backends.guide_backend import BackendLimit, GuideBackend, PlannedGuide, num_mask_words
from llm_policy.guidance.backends.names import usable_backends
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.probe import Probe, SlowMask
from llm_policy.release.manifest import Guidance

STACK_BYTES = 512 << 20
# Compiling a new guide has lower priority than serving requests.
NICENESS = 10
# On top of what the worker maps once XGrammar and the vocabulary are loaded.
MEMORY_BYTES = 2 << 30
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


Load = Callable[[str, Vocabulary], GuideBackend]


class GuideWorker:
    """Plans, compiles and probes guides for one tokenizer, with the first backend and plan that the engine can bear."""

    def __init__(
        self, vocabulary: Vocabulary, guidance: Guidance, backends: Sequence[str], load: Load | None = None
    ) -> None:
        """Load the first of `backends`. The others are loaded by `load` once a guide needs them: XGrammar takes three
        seconds of processor time and 220 MB, and llguidance takes nearly every guide.
        """
        self._vocabulary = vocabulary
        self._guidance = guidance
        self._names = tuple(backends)
        self._load = load or create_backend
        self._loaded = {self._names[0]: create_backend(self._names[0], vocabulary)}
        self._probe = Probe(vocabulary.tokens, vocabulary.stop_token_ids, guidance.limits, guidance.max_mask_ms)

    def report(self, kind: str, text: str, *, is_registered: bool = False) -> GuideReport:
        """Plan, compile and probe one guide."""
        return self.first_accepted(kind, text, is_registered=is_registered)[0]

    def first_accepted(
        self, kind: str, text: str, *, is_registered: bool = False
    ) -> tuple[GuideReport, PlannedGuide | None]:
        """The report of the first plan that the engine can bear, and the plan; else the last try's report and None."""
        report = GuideReport()
        for name in self._names:
            backend = self._backend(name)
            try:
                for guide in backend.plans(kind, text, self._guidance.limits, is_registered=is_registered):
                    report = self._try(backend, kind, guide, is_registered=is_registered)
                    if not report.code:
                        return report, guide
            except BackendLimit as finding:
                report = GuideReport(finding.error.code.value, finding.error.detail)
            except InvalidRequest as error:
                return GuideReport(error.code.value, error.detail), None
            except (MemoryError, RecursionError):
                report = _too_complex(f"guide needs more than {MEMORY_BYTES} bytes")
        return report, None

    def _backend(self, name: str) -> GuideBackend:
        if name not in self._loaded:
            self._loaded[name] = self._load(name, self._vocabulary)
        return self._loaded[name]

    def _try(self, backend: GuideBackend, kind: str, guide: PlannedGuide, *, is_registered: bool) -> GuideReport:
        started = time.process_time()
        try:
            compiled = backend.compile(guide.engine_text)
            compile_ms = (time.process_time() - started) * 1_000
            limit_ms = self._guidance.max_compile_ms
            if compile_ms > limit_ms and not is_registered:
                return _too_complex(f"guide took {compile_ms:.0f} ms to compile, limit {limit_ms} ms (max_compile_ms)")
            mask_ms = self._probe.walk(compiled, num_mask_words(backend.vocab_size))
        except InvalidRequest as error:
            return GuideReport(error.code.value, error.detail)
        except SlowMask as finding:
            limit = self._guidance.max_mask_ms
            return _too_complex(
                f"guide needs {finding.mask_ms:.1f} ms for a token mask, limit {limit:g} ms (max_mask_ms)"
            )
        return GuideReport(
            engine_type=guide.engine_type,
            engine_text=guide.engine_text,
            schema_id=schema_id(kind, guide.canonical),
            unenforced=[finding.keyword for finding in guide.unenforced],
            compile_ms=compile_ms,
            backend=backend.name,
            mask_ms=mask_ms,
        )


def _too_complex(detail: str) -> GuideReport:
    return GuideReport(Code.SCHEMA_TOO_COMPLEX.value, detail)


def schema_id(kind: str, canonical: str) -> str:
    """`sha256:` and 16 hex digits of the canonical schema, or of the type and text of any other guide."""
    material = canonical if kind == "json_schema" else f"{kind}\n{canonical}"
    return "sha256:" + hashlib.sha256(material.encode()).hexdigest()[:16]


def main() -> None:
    """Serve until standard input closes, on a thread with a stack of `STACK_BYTES`."""
    _die_with_parent()
    os.nice(NICENESS)
    # XGrammar quotes guides on stderr; a client's text must not reach the server's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    guidance = Guidance.model_validate_json(sys.argv[2])
    backends = usable_backends(guidance.backend, os.environ)
    worker = GuideWorker(Vocabulary.read(Path(sys.argv[1])), guidance, backends, _load)
    is_offline = _leave_network()
    _limit_memory()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(worker, is_offline))
    thread.start()
    thread.join()


def _serve(worker: GuideWorker, is_offline: bool) -> None:
    _write({"ready": True, "offline": is_offline})
    for line in sys.stdin.buffer:
        kind, text, *rest = orjson.loads(line)
        _write(tuple(worker.report(kind, text, is_registered=bool(rest and rest[0]))))


def _load(name: str, vocabulary: Vocabulary) -> GuideBackend:
    """Load a backend while guides are served: what it maps does not count against the guide's memory."""
    _write({"loading": True})
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    backend = create_backend(name, vocabulary)
    _limit_memory()
    _write({"loading": False})
    return backend


def _write(message: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_network() -> bool:
    """Move into a new network namespace without interfaces; false if the system forbids it."""
    unshare = ctypes.CDLL(None).unshare
    return bool(unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _limit_memory() -> None:
    mapped_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = mapped_pages * resource.getpagesize() + MEMORY_BYTES + STACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
