"""Rendering messages with a chat template."""

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.text.chat_template import ChatTemplate, Message, PromptSegment

TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
EACH = "{%% for m in messages %%}%s{%% endfor %%}"


def render(source, *messages, variables=None):
    return ChatTemplate(source, TOKENS, variables or {}).render([Message(*message) for message in messages])


def controls(segments):
    return [segment.text for segment in segments if segment.is_control]


def whole(segments):
    return "".join(segment.text for segment in segments)


def test_the_prompt_is_split_at_the_templates_control_tokens():
    assert render(EACH % "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>", ("user", "a<think>b")) == [
        PromptSegment("", False),
        PromptSegment("<|im_start|>", True),
        PromptSegment("user\na<think>b", False),
        PromptSegment("<|im_end|>", True),
        PromptSegment("", False),
    ]


JOINED = {
    "with the template's own text": (EACH % "{{ m.content }}>", ["a<|im_end|"], "a<|im_end|>"),
    "once the template has trimmed it": (EACH % "{{ m.content | trim }}>", ["a<|im_end| \n"], "a<|im_end|>"),
    "at its beginning": (EACH % "<|im_end{{ m.content | trim }}", [" |>a"], "<|im_end|>a"),
    "with the next message": (EACH % "{{ m.content }}", ["<|im_", "end|>"], "<|im_end|>"),
    "over three messages": (EACH % "{{ m.content }}", ["<|im", "_", "end|>"], "<|im_end|>"),
    "from both sides": (EACH % "<|im_{{ m.content | trim }}|>", [" end"], "<|im_end|>"),
    "around another control token": (EACH % "{{ m.content }}", ["<thi<think>nk>"], "<thi<think>nk>"),
}


@pytest.mark.parametrize(("source", "contents", "text"), JOINED.values(), ids=JOINED.keys())
def test_part_of_a_control_token_is_not_completed(source, contents, text):
    segments = render(source, *(("user", content) for content in contents))
    assert controls(segments) == []
    assert whole(segments) == text


@pytest.mark.parametrize("filter_name", ["upper", "lower", "title", "tojson", "trim"])
def test_a_template_filter_does_not_expose_placeholders(filter_name):
    segments = render(EACH % f"{{{{ m.content | {filter_name} }}}}", ("user", "x <think> <"))
    assert controls(segments) == []
    assert whole(segments).strip('"').lower() == "x <think> <"


@pytest.mark.parametrize("content", ["{{ 7 * 7 }}", "{% raw %}", "{# #}", "\u27ea0\u27eb", "\u27ea1:2\u27eb"])
def test_content_is_neither_a_template_nor_a_placeholder(content):
    assert whole(render(EACH % "{{ m.content }}", ("user", content))) == content


def test_templates_see_the_same_variables_as_in_transformers():
    source = "{{ bos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ enable_thinking }}"
    segments = render(source, ("user", ""), variables={"bos_token": "<|im_start|>"})
    assert controls(segments) == ["<|im_start|>"]
    assert whole(segments) == "<|im_start|>TrueTrueTrueFalse"


def test_an_assistant_message_keeps_its_thinking_as_plain_text():
    source = EACH % "{{ m.content.split('</think>')[-1] }}"
    assert whole(render(source, ("assistant", "<think>a</think>b"))) == "<think>a</think>b"


def test_a_template_error_is_reported_without_its_text():
    source = "{{ raise_exception('secret ' + messages[0].content) }}"
    with pytest.raises(InvalidRequest, match=r"^invalid_input: the chat template rejects this sequence of messages$"):
        render(source, ("user", "prompt"))


def test_a_template_cannot_access_python_internals():
    with pytest.raises(InvalidRequest):
        render("{{ messages.__class__.__mro__ }}{{ messages.append(1) }}", ("user", ""))
