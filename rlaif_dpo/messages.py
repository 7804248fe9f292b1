"""Chat messages, the one shape in which every room passes text."""

from collections.abc import Sequence
from typing import Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation, as chat templates and trainers take it."""

    role: Literal["system", "user", "assistant"]
    content: str


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


def transcript(messages: Sequence[Message]) -> str:
    """The conversation as plain text for a judge to read: one `Human:`/`Assistant:` paragraph a turn."""
    return "\n\n".join(f"{SPEAKERS[message['role']]}: {message['content']}" for message in messages)
