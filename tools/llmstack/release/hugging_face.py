"""A Hugging Face model directory: which of its files a release needs, and what its configuration says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

_INDEX = "model.safetensors.index.json"
_ENGINE_FILES = ("config.json", "generation_config.json", "hf_quant_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
)
_DTYPE_LABELS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class ModelDirectoryError(ValueError):
    """The directory can't become a release; `next_step` says what to do."""

    def __init__(self, text: str, next_step: str) -> None:
        super().__init__(text)
        self.next_step = next_step


class ModelFiles(NamedTuple):
    """The files that the release takes over: those of its `engine` and those of its `tokenizer` directory."""

    engine: list[Path]
    tokenizer: list[Path]


def find_model_files(directory: Path) -> ModelFiles:
    """The files of the model at `directory`: its configuration, its safetensors, its tokenizer.

    Raises:
        ModelDirectoryError: one that no release can do without is missing.
    """
    if not directory.is_dir():
        raise ModelDirectoryError(f"no directory {directory}", "give --from-hf the directory with the model's files")
    for name, next_step in (
        ("config.json", "give --from-hf a Hugging Face model directory; a TensorRT engine: docs/model.md, by hand"),
        (
            "tokenizer.json",
            'write it with transformers: python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{directory}').save_pretrained('{directory}')\"",
        ),
        ("tokenizer_config.json", "copy it from the model's source: it names the token that ends an answer"),
    ):
        if not (directory / name).is_file():
            raise ModelDirectoryError(f"{directory} has no {name}", next_step)
    engine = [directory / name for name in _ENGINE_FILES if (directory / name).is_file()]
    tokenizer = [directory / name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    return ModelFiles([*engine, *_weight_files(directory)], tokenizer)


def read_config(engine_dir: Path) -> dict[str, Any]:
    """The model's configuration, config.json.

    Raises:
        ModelDirectoryError: it can't be read.
    """
    return _read_object(engine_dir / "config.json")


def missing_weights(engine_dir: Path) -> str:
    """What the engine directory lacks of its safetensors; empty when nothing is missing."""
    try:
        _weight_files(engine_dir)
    except ModelDirectoryError as error:
        return str(error)
    return ""


def vocabulary_size(config: dict[str, Any]) -> int | None:
    """The number of token ids that the model takes; None when the configuration does not say."""
    return _number(config, "vocab_size")


def longest_sequence(config: dict[str, Any]) -> int | None:
    """Tokens of prompt and completion that the model takes; None when the configuration does not say."""
    return _number(config, "max_position_embeddings")


def quantisation_label(config: dict[str, Any]) -> str:
    """A label for the weights: w4a8 and the like for compressed-tensors, else the method, else the data type."""
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict):
        return _compressed_tensors_label(quantisation) or str(quantisation.get("quant_method", "quantised")).lower()
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return _DTYPE_LABELS.get(dtype, dtype.lower())


def architectures(config: dict[str, Any]) -> list[str]:
    """The names of the model's classes, such as Qwen3ForCausalLM."""
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def portable_engine_finding(config: dict[str, Any]) -> str:
    """Why the portable engine can't run the model; empty where it can, or where transformers is not installed."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError:
        return ""
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"the installed transformers has no causal language model {kind!r}"
    if config.get("quantization_config"):
        return "its weights are quantised, and the portable engine is tested with plain weights only"
    return ""


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors: the shards that the index lists, model.safetensors, or else all of them, with the index."""
    index = directory / _INDEX
    if index.is_file():
        shards = sorted(set(_read_object(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (directory / name).is_file()]
        if missing or not shards:
            raise ModelDirectoryError(
                f"{directory} has no {missing[0] if missing else 'weights'}, which {_INDEX} lists",
                "complete the download of the model",
            )
        return [index, *(directory / name for name in shards)]
    single = directory / "model.safetensors"
    found = [single] if single.is_file() else sorted(directory.glob("*.safetensors"))
    if not found:
        raise ModelDirectoryError(
            f"{directory} has no *.safetensors",
            "convert the weights, as model.save_pretrained(DIR) of transformers does: no engine reads pickled ones",
        )
    return found


def _number(config: dict[str, Any], key: str) -> int | None:
    """A number of the configuration, which models of several modalities have in `text_config`."""
    nested = config.get("text_config")
    value = config.get(key, nested.get(key) if isinstance(nested, dict) else None)
    return value if isinstance(value, int) else None


def _compressed_tensors_label(quantisation: dict[str, Any]) -> str:
    groups = quantisation.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    if not isinstance(group, dict):
        return ""
    weights = group.get("weights")
    if not isinstance(weights, dict) or not isinstance(weights.get("num_bits"), int):
        return ""
    activations = group.get("input_activations")
    return f"w{weights['num_bits']}a{activations['num_bits'] if isinstance(activations, dict) else 16}"


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelDirectoryError(f"{path}: {error.strerror}", "make the file readable") from None
    except ValueError as error:
        raise ModelDirectoryError(f"{path}: not JSON: {error}", "complete the download of the model") from None
    if not isinstance(value, dict):
        raise ModelDirectoryError(f"{path}: not a JSON object", "complete the download of the model")
    return value
