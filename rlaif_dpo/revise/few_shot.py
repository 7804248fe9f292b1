"""Example dialogues before a critique request: they keep critique and revision apart (2212.08073, section 3.1)."""

import json
from collections.abc import Sequence
from pathlib import Path

from rlaif_dpo.errors import UserError
from rlaif_dpo.messages import Message
from rlaif_dpo.progress import Progress
from rlaif_dpo.revise.clean import finds_fault
from rlaif_dpo.shipped import shipped_files

Dialogue = tuple[Message, ...]


def shipped_few_shot() -> dict[str, Path]:
    """The example dialogues that ship with the package, by name."""
    return shipped_files("few_shot", ".json")


def few_shot_path(name_or_path: str) -> Path:
    """Where the dialogues lie: the file of a shipped name, else the path itself, whether or not there is a file."""
    return shipped_few_shot().get(name_or_path, Path(name_or_path))


def load_few_shot(name_or_path: str | None, progress: Progress) -> tuple[Dialogue, ...]:
    """Shipped dialogues by name, or those of a JSON file: `[[{"role", "content"}, ...], ...]`, user and assistant in alternation.

    The turns of a dialogue are question, reply, critique request, critique, revision request, revision. Says so where every
    critique finds a fault: without examples that find none, good replies get revised too.
    Raises:
        UserError: the file is missing, is not JSON, or has another shape.
    """
    if name_or_path is None:
        return ()
    path = few_shot_path(name_or_path)
    try:
        dialogues = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"revise.few_shot: cannot read {path} as JSON ({error}); give a file of example dialogues") from None
    if not isinstance(dialogues, list) or not all(_is_dialogue(dialogue) for dialogue in dialogues):
        raise UserError(
            f"revise.few_shot: {path} must be a list of dialogues, each a list of 6 (or 10, 14, ...) messages "
            '{"role", "content"} that alternate user and assistant'
        )
    critiques = [dialogue[turn]["content"] for dialogue in dialogues for turn in range(3, len(dialogue), 4)]
    if critiques and all(finds_fault(critique) for critique in critiques):
        progress.say(f"{path}: every example finds a fault; without one that finds none, good replies get revised too.")
    return tuple(tuple(dialogue) for dialogue in dialogues)


def with_examples(conversation: Sequence[Message], examples: Sequence[Dialogue]) -> Dialogue:
    """`conversation` with the examples before its first turn, after its system message if it has one."""
    system = sum(message["role"] == "system" for message in conversation[:1])
    return (*conversation[:system], *(message for dialogue in examples for message in dialogue), *conversation[system:])


def _is_dialogue(value: object) -> bool:
    """Whether `value` is question, reply, then critique-revision steps of four turns."""
    if not isinstance(value, list) or len(value) < 6 or len(value) % 4 != 2:
        return False
    return all(
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and isinstance(message["content"], str)
        and message["role"] == ("user", "assistant")[turn % 2]
        for turn, message in enumerate(value)
    )
