"""The README of an embedded release: what its model is, how it was made, what it can do and what it can't."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embedded_model import weights
from embedded_model.checkpoint import Checkpoint, TrainingRecord
from embedded_model.tokenizer import MAX_LENGTH, VOCAB_SIZE
from llm_policy.release.manifest import TASKS

_FACTS = """\
| | |
|---|---|
| Architecture | Qwen3ForCausalLM, {size.layers} layers, hidden size {size.hidden}, {size.heads} heads, \
{size.kv_heads} key/value heads |
| Weights | {weights} |
| Vocabulary | {vocab:,} entries: byte-level BPE trained on generated text, and Qwen3's 26 added tokens |
| Context | {context:,} tokens |
| Quantisation | none; the label `{quantisation}` in the manifest is production's (see below) |
| Licence | Apache-2.0, like the code that builds it |

The weights are bfloat16, not quantised. The manifest still says `{quantisation}`, because clients must send that label
with every request and those written for production shall work here unchanged.
"""

_RANDOM = """\
# embedded-qwen3-random

A model that knows nothing. It has Qwen3's architecture, tokenizer rules, control tokens and chat format in
2.5 MiB, so that tests can make as many engines as they need. Its answers are noise in the shape that was asked for:
valid JSON under a guide, random words without one.

{facts}
Build it again, byte for byte, in a second:

    llmstack embedded-model build --output DIR --seed {seed}

Check it: `llmstack manifest verify DIR`.
"""

_TRAINED = """\
# embedded-qwen3

A small model that does the three tasks: it fills a JSON schema from a paragraph, ranks candidates by a stated
criterion, and judges a claim against its evidence. It runs the whole serving stack on a laptop without a GPU and
without a download, on the path that a real Qwen3 takes: Hugging Face directory, safetensors, tokenizer.json, chat
template, guided decoding.

{facts}
## How it was made

| | |
|---|---|
| Data | synthetic, made by this project's own code from seed {record.seed}; no text of others |
| Examples | {examples} |
| Tokens | {record.tokens:,} in {record.steps:,} steps |
| Time | {record.seconds:,.0f} s, the compiling of kernels included |
| Hardware | {record.hardware}, of whose memory it took {memory:.1f} GiB |
| Source | commit {record.source_commit} |
| Software | torch {record.torch}, transformers {record.transformers} |
| Last loss | {record.final_loss:.4f} |

Names, numbers and dates of the examples are made up, so that copying from the prompt is the only way to be right. The
evaluation uses words, dates and numbers above 99 that training never shows. The command was

    {record.command}
    llmstack embedded-model build --checkpoint CHECKPOINT --output DIR

The data is the same on every machine (training.json has its digest); the weights are the same where GPU, torch and
kernels are.

## How well it does

{results}
## What it can't do

Anything else. It knows no facts and follows no instruction besides those that it was trained on, in English:
docs/embedded_model.md lists the forms. It fills flat schemas of up to six fields; it compares whole numbers up to 9,999
in rankings of three to six candidates; it judges person, amount, date and place of a payment. Prompts of more than some
350 tokens are longer than any it has seen. Use it to develop clients, to test and to demonstrate.

Check the release: `llmstack manifest verify DIR`.
"""


def model_card(seed: int, checkpoint: Checkpoint | None, quantisation: str) -> str:
    """The card of a release with random weights from `seed`, or of one built from `checkpoint`."""
    if checkpoint is None:
        text = f"bfloat16, drawn at random from seed {seed}; never trained"
        return _RANDOM.format(facts=_facts(weights.RANDOM, text, quantisation), seed=seed)
    facts = _facts(weights.TRAINED, f"bfloat16, {len(checkpoint.weights) / 1e6:.1f} MB, trained", quantisation)
    record = checkpoint.record
    return _TRAINED.format(
        facts=facts,
        record=record,
        examples=_examples(record),
        memory=record.peak_memory_bytes / 2**30,
        results=results_text(checkpoint.evaluation),
    )


def _facts(size: weights.Architecture, text: str, quantisation: str) -> str:
    return _FACTS.format(size=size, weights=text, vocab=VOCAB_SIZE, context=MAX_LENGTH, quantisation=quantisation)


def _examples(record: TrainingRecord) -> str:
    return ", ".join(f"{count:,} of {task}" for task, count in record.examples.items())


_FIGURES = {
    "schema_valid": "schema valid",
    "exact": "exact",
    "field_accuracy": "fields",
    "top1": "top-1",
    "full_order": "full order",
    "verdict": "verdict",
}
_NOT_MEASURED = """\
Not measured yet: `llmstack embedded-model evaluate --json`, and `build --evaluation` with what it prints.
"""


def results_text(evaluation: bytes | None) -> str:
    """The figures of an evaluation as two tables.

    Raises:
        ValueError, LookupError, TypeError: it isn't what `evaluate --json` prints.
    """
    if evaluation is None:
        return _NOT_MEASURED
    report = json.loads(evaluation)
    run, further = report["run"], report["unfamiliar"]
    text = (
        f"{run['count']} held-out prompts a task through the running ensemble, in the forms of training, with guidance "
        f"and without\n(`llmstack embedded-model evaluate`, {run['date']}):\n\n" + results_table(report)
    )
    if further:
        text += (
            f"\n{run['unfamiliar_count']} prompts a task in wordings and of schemas that training doesn't show, where "
            "guidance still gives the shape:\n\n" + results_table(further)
        )
    return text


def results_table(report: Mapping[str, Any]) -> str:
    """{task: {kind: {figure: share of 1}}} as a Markdown table, other keys left out."""
    lines = [f"| task | | {' | '.join(_FIGURES.values())} |", "|---" * (len(_FIGURES) + 2) + "|"]
    for task in TASKS:
        for kind, scores in report[task].items():
            cells = [f"{scores[name]:.1%}" if name in scores else "" for name in _FIGURES]
            lines.append(f"| {task} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
