"""Pieces become answers and chunks that the OpenAPI document describes."""

from __future__ import annotations

import json

import jsonschema_rs
import msgspec
import pytest

from llmstack.openai.answer import ChatForm, TextForm, new_head, policy_report, read_usage, report_headers
from llmstack.openai.api_document import make_document
from llmstack.openai.triton_client import Piece

DOCUMENT = make_document()
PIECES = [
    Piece({"text_output": ["Hé"], "num_output_tokens": (2,), "output_log_probs": (-1.0, -0.5)}, False),
    Piece(
        {
            "text_output": ["y"],
            "num_output_tokens": (3,),
            "output_log_probs": (-0.25,),
            "num_input_tokens": (5,),
            "finish_reason": ["length"],
            "cost_usd": (0.001,),
            "schema_valid": (False,),
            "resolved_schema_id": ["order"],
            "flags": ["truncated", "cost_breach"],
            "queue_delay_us": (12,),
        },
        True,
    ),
]
REPORT = policy_report(PIECES[1])
HEAD = new_head(ChatForm(), "m", "sha256:" + "ab" * 32)


def as_json(answer, name):
    value = json.loads(msgspec.json.encode(answer))
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema_rs.validate(schema, value)
    return value


def test_a_whole_chat_joins_its_pieces():
    answer = as_json(ChatForm().whole(HEAD, PIECES, REPORT), "ChatCompletion")
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Héy", "refusal": None}
    assert (choice["finish_reason"], choice["index"]) == ("length", 0)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert answer["system_fingerprint"] == "fp_abababababab"


def test_the_first_of_several_tokens_in_a_piece_has_their_text():
    tokens = as_json(ChatForm().whole(HEAD, PIECES, REPORT), "ChatCompletion")["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"]) for each in tokens] == [("Hé", -1.0), ("", -0.5), ("y", -0.25)]
    assert tokens[0]["bytes"] == list("Hé".encode())
    text = as_json(TextForm().whole(HEAD, PIECES, REPORT), "TextCompletion")["choices"][0]["logprobs"]
    assert (text["tokens"], text["text_offset"]) == (["Hé", "", "y"], [0, 2, 2])


def test_only_the_last_chunk_has_a_reason_and_the_report():
    chunks = [as_json(ChatForm().chunk(HEAD, piece, 0, msgspec.UNSET), "ChatCompletionChunk") for piece in PIECES]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]
    assert ["llmstack" in chunk for chunk in chunks] == [False, True]
    assert ["usage" in chunk for chunk in chunks] == [False, False]


@pytest.mark.parametrize(("form", "name"), [(ChatForm(), "ChatCompletionChunk"), (TextForm(), "TextCompletion")])
def test_with_usage_every_chunk_has_the_member_and_the_last_its_value(form, name):
    assert as_json(form.chunk(HEAD, PIECES[0], 0, None), name)["usage"] is None
    usage = as_json(form.usage_chunk(HEAD, read_usage(PIECES[1])), name)
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 8)


def test_the_report_is_in_the_headers_too():
    assert report_headers(REPORT) == {
        "x-llmstack-schema-valid": "false",
        "x-llmstack-resolved-schema-id": "order",
        "x-llmstack-cost-usd": "0.001",
        "x-llmstack-flags": "truncated, cost_breach",
        "x-llmstack-queue-delay-us": "12",
    }


def test_an_answer_without_a_schema_is_neither_valid_nor_invalid():
    piece = Piece({"schema_valid": (True,), "resolved_schema_id": [""], "flags": [""]}, True)
    report = policy_report(piece)
    assert (report.schema_valid, report.resolved_schema_id, report.flags) == (None, None, [])
