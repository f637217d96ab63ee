"""The sandboxed process that plans and compiles guides, one at a time.

    python -m llm_policy.guidance.compile.worker TOKENIZER_INFO LIMITS

TOKENIZER_INFO is the release's tokenizer_info.json, LIMITS the manifest's guide limits as JSON. Each line on standard
input is a guide, `["<type>", "<text>"]`; each line on standard output is its `GuideReport` as an array. The first line
of the output announces that the worker is ready.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.probe import Probe
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.json_schema_guide import plan_json, plan_json_schema
from llm_policy.guidance.plan.planned_guide import PlannedGuide
from llm_policy.guidance.plan.text_guides import plan_choice, plan_regex
from llm_policy.release.guide_limits import GuideLimits

STACK_BYTES = 512 << 20
# Compiling a new guide has lower priority than serving requests.
NICENESS = 10
# On top of what the worker maps once XGrammar and the vocabulary are loaded.
MEMORY_BYTES = 2 << 30
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

PLANNERS: dict[str, Callable[[str, GuideLimits], PlannedGuide]] = {
    "json": lambda text, limits: plan_json(limits),
    "json_schema": plan_json_schema,
    "regex": plan_regex,
    "ebnf_grammar": plan_ebnf,
    "choice": plan_choice,
}


class GuideWorker:
    """Plans, compiles and probes guides for one tokenizer."""

    def __init__(self, tokenizer_info_path: Path, limits: GuideLimits) -> None:
        import xgrammar

        info = orjson.loads(tokenizer_info_path.read_bytes())
        self._limits = limits
        tokenizer_info = xgrammar.TokenizerInfo(
            info["encoded_vocab"], xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=info["stop_token_ids"]
        )
        self._compiler = xgrammar.GrammarCompiler(tokenizer_info, max_threads=1, cache_enabled=False)
        self._probe = Probe(tokenizer_info, limits)

    def compile(self, engine_text: str) -> Any:
        """The compiled grammar of a planned guide.

        Raises:
            InvalidRequest: `schema_invalid` or, out of memory, `schema_too_complex`. XGrammar's message is dropped,
                because it quotes the guide.
        """
        try:
            return self._compiler.compile_grammar(engine_text)
        except MemoryError:
            raise InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide needs more than {MEMORY_BYTES} bytes") from None
        except Exception:
            raise InvalidRequest(Code.SCHEMA_INVALID, "the grammar compiler rejects this guide") from None

    def report(self, kind: str, text: str) -> GuideReport:
        """Plan, compile and probe one guide."""
        try:
            planned = PLANNERS[kind](text, self._limits)
            started = time.process_time()
            grammar = self.compile(planned.guide)
            compile_ms = (time.process_time() - started) * 1_000
            self._probe.walk(grammar)
        except InvalidRequest as error:
            return GuideReport(error.code.value, error.detail)
        except (MemoryError, RecursionError):
            return GuideReport(Code.SCHEMA_TOO_COMPLEX.value, f"guide needs more than {MEMORY_BYTES} bytes")
        return GuideReport(
            engine_type=planned.guide_type,
            engine_text=planned.guide,
            schema_id=schema_id(kind, planned.canonical),
            unenforced=[finding.keyword for finding in planned.unenforced],
            compile_ms=compile_ms,
        )


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
    limits = GuideLimits(**orjson.loads(sys.argv[2]))
    worker = GuideWorker(Path(sys.argv[1]), limits)
    is_offline = _leave_network()
    _limit_memory()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(worker, is_offline))
    thread.start()
    thread.join()


def _serve(worker: GuideWorker, is_offline: bool) -> None:
    _write({"ready": True, "offline": is_offline})
    for line in sys.stdin.buffer:
        _write(tuple(worker.report(*orjson.loads(line))))


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
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
