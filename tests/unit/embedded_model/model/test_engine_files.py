"""The engine directory as transformers loads it."""

import pytest

from embedded_model.model.tokenizer import VOCAB_SIZE


@pytest.fixture(scope="module")
def model(release):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        str(release.engine_path), dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    assert loaded.dtype == torch.bfloat16
    return loaded.float()


def test_the_model_has_the_tokenizers_eos_token(model, tokenizer):
    assert model.generation_config.eos_token_id == tokenizer.token_to_id("<|im_end|>")
    assert model.config.vocab_size == VOCAB_SIZE


def test_the_context_holds_the_largest_token_budget(model, release):
    assert model.config.max_position_embeddings >= release.manifest.thresholds.max_tokens


def test_the_answer_depends_on_the_first_token_of_a_long_prompt(model):
    import torch

    prompts = torch.arange(1, 65).repeat(8, 1)
    prompts[:, 0] = torch.arange(100, 108)
    with torch.no_grad():
        next_tokens = model(prompts).logits[:, -1].argmax(-1)
    assert len(set(next_tokens.tolist())) > 1
