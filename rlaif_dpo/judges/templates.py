"""The question a pairwise judge answers. The pair stands first, the principle last: prompts of one pair share their prefix."""

from collections.abc import Sequence

from rlaif_dpo.messages import Message, transcript, user

OPTIONS = ("A", "B")


def compare_messages(conversation: Sequence[Message], reply_a: str, reply_b: str, compare: str) -> tuple[Message, ...]:
    """One user turn: the conversation, both replies, and the principle's question."""
    return (
        user(
            f"{transcript(conversation)}\n\nReply A: {reply_a}\n\nReply B: {reply_b}\n\n"
            f"{compare} Answer {OPTIONS[0]} or {OPTIONS[1]}."
        ),
    )
