"""The child process that compiles guides with XGrammar, one at a time: `python -m llm_policy.guidance.worker FILE`.

FILE is the release's tokenizer_info.json. Each line on standard input is one guide, `["<engine type>", "<text>"]`;
each line on standard output its verdict, `["ok", <milliseconds>]` or `["<code>", "<detail>"]`; the first line says
`["ready", 0]`. XGrammar can crash or hang on a hostile guide, so this process is never a Triton stub.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.validator import check_validator


class GuideCompiler:
    """XGrammar bound to one tokenizer."""

    def __init__(self, tokenizer_info_path: Path) -> None:
        import xgrammar

        info = orjson.loads(tokenizer_info_path.read_bytes())
        tokens = xgrammar.TokenizerInfo(
            info["encoded_vocab"], xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=info["stop_token_ids"]
        )
        self._compiler = xgrammar.GrammarCompiler(tokens, max_threads=1, cache_enabled=False)

    def compile(self, engine_type: str, text: str) -> Any:
        """The compiled grammar; whatever XGrammar raises goes through."""
        if engine_type == "json":
            return self._compiler.compile_builtin_json_grammar()
        if engine_type == "json_schema":
            check_validator(text)
            return self._compiler.compile_json_schema(text, any_whitespace=False)
        if engine_type == "regex":
            return self._compiler.compile_regex(text)
        return self._compiler.compile_grammar(text)

    def judge(self, engine_type: str, text: str) -> list[Any]:
        """The verdict on one guide, as its line on standard output."""
        started = time.perf_counter()
        try:
            self.compile(engine_type, text)
        except InvalidRequest as error:
            return [error.code.value, error.detail]
        except Exception:
            # XGrammar's own text echoes the guide.
            return [Code.SCHEMA_INVALID.value, f"guide is no {engine_type} that the grammar compiler takes"]
        return ["ok", (time.perf_counter() - started) * 1_000]


def main() -> None:
    """Serve verdicts until standard input closes."""
    # XGrammar writes to stderr, quoting guides; nothing of a client's may reach the server's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    compiler = GuideCompiler(Path(sys.argv[1]))
    _reply(["ready", 0])
    for line in sys.stdin.buffer:
        _reply(compiler.judge(*orjson.loads(line)))


def _reply(verdict: list[Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(verdict, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
