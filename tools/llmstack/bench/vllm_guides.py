"""Measures what planned guides cost vLLM alone, on a Qwen3-32B shape in W4A8 without weights.

    python3 vllm_guides.py plan SCHEMAS_DIR NAME... > guides.json      # needs the policy's packages
    python3 vllm_guides.py measure TOKENIZER_DIR guides.json BACKEND   # on a GPU; needs vLLM and this file only

`plan` writes each schema's guide as the policy hands it to the engine, for each backend. `measure` starts vLLM with one
backend and asks for guided completions with a number of clients in a closed loop, then for unguided completions of
exactly the same lengths. It prints one JSON line for each concurrency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BACKENDS = {"xgrammar": "xgrammar", "llguidance": "guidance"}
"""The policy's name of a backend → vLLM's."""
PROMPT_TOKENS, MAX_TOKENS = 512, 64
NUM_ROUNDS = 3
CONCURRENCY = (1, 4, 16, 64)

MODEL_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 5_120,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25_600,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": 128,
                    "dynamic": False,
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "token",
                    "dynamic": True,
                },
            }
        },
    },
}


def plan(schemas_dir: Path, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The guides of the named schema files (MaskBench's format) by backend, planned as ad-hoc guides.

    Raises:
        SystemExit: the policy rejects a schema.
    """
    from llm_policy.guidance.backends.vocabulary import Vocabulary
    from llm_policy.guidance.compile.worker import GuideWorker
    from llm_policy.release.manifest import Guidance
    from llmstack.tokenizer.qwen_vocabulary import STOP_TOKENS, build_tokenizer, encoded_vocab

    with tempfile.TemporaryDirectory() as directory:
        build_tokenizer(Path(directory))
        tokenizer_json = (Path(directory) / "tokenizer.json").read_text(encoding="utf-8")
    tokens = encoded_vocab(json.loads(tokenizer_json))
    vocabulary = Vocabulary(tokens, [tokens.index(STOP_TOKENS[0])], tokenizer_json)
    guides: dict[str, list[dict[str, Any]]] = {}
    for backend in BACKENDS:
        worker = GuideWorker(vocabulary, Guidance(), [backend])
        for name in names:
            schema = json.loads((schemas_dir / f"{name}.json").read_text(encoding="utf-8"))["schema"]
            report = worker.report("json_schema", json.dumps(schema))
            if report.code:
                raise SystemExit(f"{backend} rejects {name}: {report.code}: {report.detail}")
            row = {"name": name, "text": report.engine_text, "compile_ms": report.compile_ms, "mask_ms": report.mask_ms}
            guides.setdefault(backend, []).append({**row, "unenforced": report.unenforced})
    return guides


async def _complete(engine: Any, name: str, text: str | None, max_tokens: int) -> tuple[int, float]:
    """One completion: its tokens, and the seconds until the first."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    parameters = SamplingParams(
        temperature=1.0,
        max_tokens=max_tokens,
        ignore_eos=text is None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(grammar=text) if text else None,
    )
    prompt = {"prompt_token_ids": [random.randrange(1_000, 100_000) for _ in range(PROMPT_TOKENS)]}  # noqa: S311
    start, first_s, num_tokens = time.perf_counter(), 0.0, 0
    async for output in engine.generate(prompt, parameters, name):
        num_tokens += len(output.outputs[0].token_ids)
        first_s = first_s or time.perf_counter() - start
    return num_tokens, first_s


async def _run(engine: Any, label: str, jobs: list[tuple[str | None, int]], concurrency: int) -> dict[str, Any]:
    """All jobs (guide and limit of tokens) with `concurrency` clients; each client takes the next job."""
    pending = list(enumerate(jobs))
    rows: dict[int, tuple[int, float]] = {}

    async def work() -> None:
        while pending:
            number, (text, max_tokens) = pending.pop(0)
            rows[number] = await _complete(engine, f"{label}-{number}", text, max_tokens)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = time.perf_counter() - start
    return {
        "lengths": [rows[number][0] for number in range(len(jobs))],
        "tokens_per_s": sum(row[0] for row in rows.values()) / seconds,
        "first_token_ms": statistics.median(row[1] for row in rows.values()) * 1_000,
    }


async def _measure(tokenizer_dir: Path, guides: list[dict[str, Any]], backend: str) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    model_dir = Path(tempfile.mkdtemp())
    for file in tokenizer_dir.iterdir():
        (model_dir / file.name).write_bytes(file.read_bytes())
    (model_dir / "config.json").write_text(json.dumps(MODEL_CONFIG), encoding="utf-8")
    start = time.perf_counter()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model_dir),
            load_format="dummy",
            max_model_len=8_192,
            max_num_seqs=128,
            structured_outputs_config={"backend": BACKENDS[backend]},
        )
    )
    print(json.dumps({"backend": backend, "start_s": round(time.perf_counter() - start)}), flush=True)
    await asyncio.gather(*(_complete(engine, f"warm-{number}", None, 16) for number in range(64)))
    for guide in guides:  # compiled once, as a release's schemas are in warm-up
        start = time.perf_counter()
        num_tokens, _ = await _complete(engine, f"first-{guide['name']}", guide["text"], MAX_TOKENS)
        row = {"guide": guide["name"], "first_request_s": round(time.perf_counter() - start, 3), "tokens": num_tokens}
        print(json.dumps(row), flush=True)
    for concurrency in CONCURRENCY:
        await _compare(engine, guides, backend, concurrency)
    engine.shutdown()


async def _compare(engine: Any, guides: list[dict[str, Any]], backend: str, concurrency: int) -> None:
    """Guided and unguided in turns; the medians of the rounds."""
    num_jobs = max(len(guides), 3 * concurrency)
    guided_jobs: list[tuple[str | None, int]] = [(guides[n % len(guides)]["text"], MAX_TOKENS) for n in range(num_jobs)]
    guided, unguided = [], []
    for number in range(NUM_ROUNDS):
        guided.append(await _run(engine, f"guided-{concurrency}-{number}", guided_jobs, concurrency))
        same_lengths: list[tuple[str | None, int]] = [(None, max(length, 1)) for length in guided[-1]["lengths"]]
        unguided.append(await _run(engine, f"free-{concurrency}-{number}", same_lengths, concurrency))
    ratios = [g["tokens_per_s"] / u["tokens_per_s"] for g, u in zip(guided, unguided, strict=True)]
    row = {
        "backend": backend,
        "concurrency": concurrency,
        "unguided_tokens_per_s": round(statistics.median(run["tokens_per_s"] for run in unguided), 1),
        "guided_tokens_per_s": round(statistics.median(run["tokens_per_s"] for run in guided), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "unguided_first_token_ms": round(statistics.median(run["first_token_ms"] for run in unguided), 1),
        "guided_first_token_ms": round(statistics.median(run["first_token_ms"] for run in guided), 1),
        "mean_tokens": round(statistics.mean(length for run in guided for length in run["lengths"]), 1),
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    """Plan or measure, by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    planning = commands.add_parser("plan", help="write the guides of schemas as JSON")
    planning.add_argument("schemas_dir", type=Path)
    planning.add_argument("names", nargs="+", help="names of the files, without .json")
    measuring = commands.add_parser("measure", help="measure vLLM with and without the guides")
    measuring.add_argument("tokenizer_dir", type=Path, help="with tokenizer.json and tokenizer_config.json")
    measuring.add_argument("guides", type=Path)
    measuring.add_argument("backend", choices=BACKENDS)
    options = parser.parse_args()
    if options.command == "plan":
        json.dump(plan(options.schemas_dir, options.names), sys.stdout, indent=1)
        return
    # Read when vLLM is imported. FlashInfer's sampler compiles a kernel with a CUDA toolkit.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    guides = json.loads(options.guides.read_text(encoding="utf-8"))
    asyncio.run(_measure(options.tokenizer_dir, guides[options.backend], options.backend))


if __name__ == "__main__":
    main()
