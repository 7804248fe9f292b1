"""Tokens of a prompt whose tokenizer is not here."""

from collections.abc import Sequence

from rlaif_dpo.messages import Message


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Four characters a token and four tokens a turn: right within a third for English, too low for other scripts."""
    return sum(len(message["content"]) // 4 + 4 for message in messages)
