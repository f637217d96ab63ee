"""The demo on a live server."""

import pytest

from llm_policy.release.release import Release
from llmstack.demo.cases import demo_cases
from llmstack.demo.run import OPENAI_SDK, WAYS, run_cases, run_chat


@pytest.fixture(scope="module")
def results(server):
    return list(run_cases(server, demo_cases(Release.open(server.release_dir))))


def test_every_reply_over_every_protocol_is_as_expected(results):
    assert [f"{result.case} over {result.protocol}: {result.fault}" for result in results if result.fault] == []
    assert len(results) == 9 * len(WAYS)


def test_the_chat_by_openais_sdk_has_the_answer_of_the_other_ways(server, results):
    (chat,) = run_chat(server, demo_cases(Release.open(server.release_dir)))
    assert (chat.protocol, chat.fault) == (OPENAI_SDK, "")
    assert chat.answer == next(result.answer for result in results if result.case == chat.case)


def test_the_answer_is_the_same_over_every_protocol(results):
    answers = {
        (result.answer, result.prompt_tokens, result.completion_tokens)
        for result in results
        if result.case == "generate_json"
    }
    assert len(answers) == 1
