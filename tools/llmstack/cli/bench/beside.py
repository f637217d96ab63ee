"""`llmstack bench beside`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from llm_policy.guidance.backends.names import BACKENDS
from llmstack.cli.guides import Backend
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:  # torch takes seconds to import
    from llm_policy.release.release import Release
    from llmstack.bench.beside import BesideBench
    from llmstack.guides.admission import AdmittedGuide, Refused
    from llmstack.guides.guide_admission import Guide

_SHOWN_CHARACTERS = 48


def beside(
    guides: Annotated[
        Path, typer.Argument(help='File with one guide on each line: ["type", "text"]; - reads standard input.')
    ],
    release: Annotated[
        Path | None,
        typer.Option(
            help="The release to measure; by default a small random model with Qwen's vocabulary.", show_default=False
        ),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="Measure only this structured-output backend.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows in the steady load.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Number of measured steps for each guide.")] = 128,
    min_ratio: Annotated[float, typer.Option(min=0, max=1, help="The smallest ratio that passes.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the rows as JSON.")] = False,
) -> None:
    """Measure how fast a steady load on the portable engine decodes beside one request with each guide.

    The policy plans and probes each guide as for a client, and the engine gets what it hands out. The ratio is the
    load's tokens per second with the guide, divided by those without. Exits with 0 if every ratio passes, else with 1.

    Example: python -m tests.hostile_guides | llmstack bench beside -
    """
    console = Console(stderr=as_json)
    measured = _read_guides(guides)
    found = []
    with _opened(release) as opened:
        for name in [backend.value] if backend else BACKENDS:
            found += _measure(console, opened, name, measured, rows, steps)
            console.print(_table(name, [row for row in found if row["backend"] == name]))
    slow = [row for row in found if row.get("ratio", 1) < min_ratio]
    console.print(f"{len(slow)} of {len(found)} below {min_ratio:g}", highlight=False)
    if as_json:
        print_json(found)
    raise typer.Exit(EXIT_FAILED if slow else 0)


def _read_guides(path: Path) -> list[Guide]:
    import orjson

    stream = typer.get_binary_stream("stdin") if str(path) == "-" else None
    try:
        content = stream.read() if stream else path.read_bytes()
        return [(str(kind), str(text)) for kind, text in map(orjson.loads, content.splitlines())]
    except OSError as error:
        fail(f"{path}: {error.strerror}", "name a file that can be read")
    except (ValueError, TypeError):
        fail(f"{path}: not a guide on each line", 'write lines such as ["regex", "[a-z]+"]')


@contextmanager
def _opened(release: Path | None) -> Iterator[Release]:
    from llm_policy.release.release import Release
    from llmstack.server.release import open_release

    try:
        if release is not None:
            yield open_release(release)
            return
        from llmstack.bench.small_release import write_small_release

        with tempfile.TemporaryDirectory() as directory:
            template = Release.open(DEFAULT_RELEASE_DIR)
            yield write_small_release(Path(directory) / "release", Path("build/qwen-tokenizer"), template)
    except ServerStartError as error:
        fail(error, "name a release with --release")
    except FileNotFoundError as error:
        fail(error, "pip install dashscope, or make install")


def _measure(
    console: Console, release: Release, backend: str, guides: Sequence[Guide], rows: int, steps: int
) -> list[dict[str, Any]]:
    """One row of results for each guide; those that the policy or the engine rejects have a `code`."""
    from llmstack.guides.guide_admission import admit_guides

    found = []
    with Progress(console=console, transient=True) as progress:
        admissions = progress.track(
            admit_guides(release, backend, guides), total=len(guides), description=f"{backend}: planning"
        )
        answers = list(admissions)
        bench = _load_bench(release, rows, steps)
        for guide, answer in progress.track(
            zip(guides, answers, strict=True), total=len(guides), description=f"{backend}: decoding"
        ):
            found.append({"backend": backend, "type": guide[0], "guide": guide[1], **_result(bench, answer)})
    return found


def _load_bench(release: Release, rows: int, steps: int) -> BesideBench:
    import orjson

    from llmstack.bench.beside import BesideBench
    from portable_engine.grammar import GrammarEngine
    from portable_engine.loader import load_model

    model = load_model(release.directory / "engine")
    vocab_size = int(model.config.vocab_size)
    grammars = GrammarEngine(release.tokenizer_info_path, vocab_size, release.manifest.guidance.max_mask_ms)
    info = orjson.loads(release.tokenizer_info_path.read_bytes())
    token_ids = {token.replace("Ġ", " "): token_id for token_id, token in enumerate(info["encoded_vocab"])}
    return BesideBench(model, grammars, token_ids, rows, steps)


def _result(bench: BesideBench, answer: AdmittedGuide | Refused) -> dict[str, Any]:
    from llmstack.guides.admission import Refused
    from portable_engine.guide_backend import GuideError

    if isinstance(answer, Refused):
        return {"code": answer.code, "detail": answer.detail}
    report = answer.report
    policy = {"compile_ms": round(report.compile_ms, 2), "probe_mask_ms": round(report.mask_ms, 3)}
    try:
        measured = bench.measure(report.engine_type, report.engine_text)
    except GuideError as error:
        return {**policy, "code": "engine", "detail": str(error)}
    return {
        **policy,
        "unenforced": report.unenforced,
        "without_tokens_per_s": round(measured.without_tokens_per_s, 1),
        "with_tokens_per_s": round(measured.with_tokens_per_s, 1),
        "ratio": round(measured.ratio, 4),
        "lost_place": measured.lost_place,
    }


def _table(backend: str, found: list[dict[str, Any]]) -> Table:
    """The measured guides, the worst ratio first, and then the rejected ones."""
    table = Table(title=f"Beside guides of {backend}", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for heading in ("ratio", "tok/s\nwithout", "\nwith", "mask ms\n(probe)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("type", "guide", "rejected, or lost its place"):
        table.add_column(heading, overflow="fold")
    for row in sorted(found, key=lambda row: row.get("ratio", 2)):
        shown = escape(row["guide"].replace("\n", " ")[:_SHOWN_CHARACTERS])
        if "ratio" in row:
            speeds = (f"{row['ratio']:.3f}", f"{row['without_tokens_per_s']:.0f}", f"{row['with_tokens_per_s']:.0f}")
            table.add_row(*speeds, f"{row['probe_mask_ms']:.2f}", row["type"], shown, row["lost_place"])
        else:
            table.add_row("–", "", "", "", row["type"], shown, f"{row['code']}: {row['detail']}")
    return table
