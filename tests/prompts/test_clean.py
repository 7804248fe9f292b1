"""Cleaning texts from outside and parsing transcripts."""

import pytest

from rlaif_dpo.prompts.clean import clean_text, is_transcript, normalise, parse_transcript, strip_control_tokens

TOKENS = """<|im_start|> <|eot_id|> <|begin_of_text|> <｜User｜> [INST] [/INST] <<SYS>> <</SYS>> <s> </s> <bos> <start_of_turn>
<end_of_turn> <|im_<|im_end|>start|> <s</s>>"""


@pytest.mark.parametrize("token", TOKENS.split())
def test_control_tokens_go(token: str) -> None:
    assert strip_control_tokens(f"a{token}b") == "ab"


@pytest.mark.parametrize(
    "text", ["a <| b |> c", "x < y | z > w", "[instruction]", "<b>bold</b>", "f <|> g", "if a<b and c>d: pass"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert strip_control_tokens(text) == text


def test_clean_text_is_valid_unicode_without_control_characters() -> None:
    assert clean_text(" a\x00b\r\nc\td\x1b[31m \ud800 😀 ") == "ab\nc\td[31m ? 😀"
    clean_text("\udfff").encode()


def test_normalise() -> None:
    assert normalise("  What\n IS  this? ") == normalise("what is THIS?")


def test_transcript_keeps_colons_and_waits_for_the_answer() -> None:
    text = "\n\nHuman: Translate: a: b\n\nto French: now\n\nAssistant: Sure: c\n\nHuman: Note: thanks\n\nAssistant:"
    assert is_transcript(text)
    assert parse_transcript(text) == [
        {"role": "user", "content": "Translate: a: b\n\nto French: now"},
        {"role": "assistant", "content": "Sure: c"},
        {"role": "user", "content": "Note: thanks"},
    ]


@pytest.mark.parametrize("text", ["Human: what does this word mean?", "Hello\n\nHuman: hi", "the\n\nAssistant: x", ""])
def test_no_transcript(text: str) -> None:
    assert not is_transcript(text)
