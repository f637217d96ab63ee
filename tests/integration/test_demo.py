"""What the demo shows is so, on the live server."""

from rich.console import Console

from llm_policy.release.release import Release
from llmstack.cli.demo import send_all
from llmstack.client.ensemble_client import PROTOCOLS


def test_every_reply_over_every_protocol_is_what_it_should_be(server):
    rows = send_all(server, Release.open(server.release_dir), Console(quiet=True))
    assert [f"{row.case} over {row.protocol}: {row.fault}" for row in rows if row.fault] == []
    assert len(rows) == 9 * len(PROTOCOLS)


def test_a_task_answers_the_same_over_every_protocol(server):
    rows = send_all(server, Release.open(server.release_dir), Console(quiet=True))
    answers = {(row.answer, row.prompt_tokens, row.completion_tokens) for row in rows if row.case == "generate_json"}
    assert len(answers) == 1
