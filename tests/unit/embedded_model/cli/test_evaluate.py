"""What `evaluate` prints."""

import io

from rich.console import Console

from embedded_model.cli.evaluate import print_wrong_answers
from embedded_model.evaluation.scores import ScoredAnswer
from embedded_model.examples.example import Example


def test_a_wrong_answer_that_looks_like_markup_is_printed_literally():
    output = io.StringIO()
    console = Console(file=output, width=200)
    example = Example("judge", "", "", {})
    print_wrong_answers([ScoredAnswer(example, "[/no] [bold]x", {"exact": 0.0})], console, 1)
    assert "[/no] [bold]x" in output.getvalue()
