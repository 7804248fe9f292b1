"""A desk of scripted replies: every prompt's fate is written in its text."""

from rlaif_dpo.constitution.schema import Constitution, Principle, derive
from rlaif_dpo.engines.base import Request
from rlaif_dpo.messages import user
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.seeding import content_hash
from tests.scripts import LimitedEngine


def principle(id: str, text: str, **more: object) -> Principle:
    return Principle(id=id, text=text, **derive(text), **more)  # type: ignore[arg-type]


CONSTITUTION = Constitution(
    "desk",
    (
        principle("kind", "Be kind."),
        principle("short", "Be short.", weight=3.0),
        principle("judge-only", "Be liked.", phases=("judge",)),
        principle("tagged", "Be formal.", applies_to=("formal",), weight=2.0),
    ),
    hash="c0ffee",
)


def prompt(id: str, text: str, tags: tuple[str, ...] = ()) -> PromptRow:
    return PromptRow(id, (user(text),), tags)


def reply(request: Request) -> str | Exception:
    """What the desk's model says to a draft, critique or revision request."""
    fate, last = request.messages[0]["content"], request.messages[-1]["content"]
    mark = content_hash(f"{request.seed}", 4)
    if last.startswith("Critique request:"):
        if fate == "clean" or (fate == "clean later" and "better" in request.messages[-2]["content"]):
            return "There is no problem."
        return RuntimeError("critic broke") if fate == "critic breaks" else f"The reply is rude ({mark})."
    if last.startswith("Revision request:"):
        before = request.messages[-4]["content"]
        return {
            "clean": before,
            "clean later": f"Here is a revised reply: a better answer {mark}",
            "stubborn": before,
            "stubborn later": before if "better" in before else f"a better answer {mark}",
            "reviser breaks": RuntimeError("reviser broke"),
            "empty": "Critique: it is rude.",
            "endless": "word " * 60,
            "loops": "go away now " * 9,
        }.get(fate, f"a better answer {mark} under {last.split('principle: ')[1][:9]}")
    return RuntimeError("prompt too long") if fate == "too long" else f"a draft {mark}"


def engine(life: int = -1) -> LimitedEngine:
    return LimitedEngine(reply, life, name="desk-model")
