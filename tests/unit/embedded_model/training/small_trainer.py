"""A trainer of a tiny model on a few rows, with batches made in this process."""

from tokenizers import Tokenizer

from embedded_model.model.architecture import Architecture, model_config
from embedded_model.training import batches, trainer
from embedded_model.training.batches import BatchSize
from llmstack.paths import DEFAULT_RELEASE_DIR

TOKENIZER = DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"
TINY = Architecture(16, 1, 2, 1, 8, 32)
FEW_ROWS = {"judge": (BatchSize(2, 176),)}


def small_trainer(num_steps):
    config = model_config(TINY, Tokenizer.from_file(str(TOKENIZER)))
    return trainer.Trainer(config, 0, num_steps, FEW_ROWS)


def generate_in_this_process(monkeypatch):
    """Replace the worker processes, which take seconds to start."""
    batches.load_tokenizer(str(TOKENIZER))

    def generate(path, seed, steps, sizes):
        return (batches.generate_step(seed, step, sizes) for step in steps)

    monkeypatch.setattr(trainer, "generate_steps", generate)
