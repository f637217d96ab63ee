"""Properties of rendering: no client text becomes a control token, and no client text is lost."""

from hypothesis import given
from hypothesis import strategies as st

from llm_policy.text.chat_template import ChatTemplate, Message
from tests.survivors import keep_if, keeps_at_least

TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|im|>")
CUTS = [
    (token, start, end) for token in TOKENS for start in range(len(token)) for end in range(start + 1, len(token) + 1)
]
PIECES = st.sampled_from(CUTS).map(lambda cut: cut[0][cut[1] : cut[2]])
OTHERS = st.sampled_from(["\n", " ", "\u27ea", "\u27eb", "{{", "e\u0301"])
CONTENTS = PIECES | st.lists(PIECES | OTHERS | st.text(max_size=3)).map("".join)
PROMPTS = st.lists(CONTENTS, min_size=1, max_size=4)
BARE = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", TOKENS, {})
CHAT = ChatTemplate("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}", TOKENS, {})


def render(template, contents):
    return template.render([Message("user", content) for content in contents])


@given(PROMPTS)
def test_only_the_templates_own_control_tokens_are_in_the_prompt(contents):
    found = [segment.text for segment in render(CHAT, contents) if segment.is_control]
    assert found == ["<|im_start|>", "<|im_end|>"] * len(contents)


@given(PROMPTS)
def test_adjacent_contents_form_no_control_token(contents):
    assert not any(segment.is_control for segment in render(BARE, contents))


@keeps_at_least(0.5)
@given(st.sampled_from(CUTS), st.sampled_from(["{{ m.content }}", "{{ m.content | trim }}"]), CONTENTS, st.booleans())
def test_content_does_not_complete_a_control_token_that_the_template_begins(cut, place, content, exactly):
    token, start, end = cut
    source = "{% for m in messages %}" + token[:start] + place + token[end:] + "{% endfor %}"
    content = token[start:end] if exactly else content
    keep_if(token[:start] + token[end:] not in TOKENS)
    assert not any(segment.is_control for segment in render(ChatTemplate(source, TOKENS, {}), [content]))


@given(PROMPTS)
def test_every_character_of_a_content_is_in_the_prompt_exactly_once(contents):
    assert "".join(segment.text for segment in render(BARE, contents)) == "".join(contents)
