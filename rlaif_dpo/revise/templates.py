"""The turns of a critique-revision step (Bai et al. 2022, 2212.08073, section 3.1), as chat messages."""

from collections.abc import Sequence

from rlaif_dpo.messages import Message, assistant, user

NO_PROBLEM = "There is no problem."


def critique_messages(conversation: Sequence[Message], reply: str, critique_request: str) -> tuple[Message, ...]:
    """The conversation, the reply, and the request to criticise it."""
    return (
        *conversation,
        assistant(reply),
        user(f"Critique request: {critique_request} If nothing is wrong, answer: {NO_PROBLEM}"),
    )


def revision_messages(
    conversation: Sequence[Message], reply: str, critique_request: str, critique: str, revision_request: str
) -> tuple[Message, ...]:
    """The critique dialogue so far, and the request to revise."""
    return (
        *critique_messages(conversation, reply, critique_request),
        assistant(critique),
        user(f"Revision request: {revision_request} Write only the revised reply."),
    )
