"""How a comparison is put to a judge. The pair stands before the principle: the prompts of one pair share their prefix."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.escape import escape
from rlaif_dpo.messages import Message, assistant, transcript, user
from rlaif_dpo.prompts.clean import strip_control_tokens

OPTIONS = ("A", "B")
FIELDS = ("conversation", "first", "second", "principle", "compare")
SECTIONS = ("direct", "rationale", "verdict")
SECTION = re.compile(r"^\[(\w+)\][ \t]*\n", re.MULTILINE)
HEADER = re.compile(r"\Aoptions:[ \t]*(\S+)[ \t]*,[ \t]*(\S+)[ \t]*\n")


@dataclass(frozen=True)
class Template:
    """The wording of a comparison.

    Attributes:
        name: For the judge's name.
        options: What stands for the reply shown first, and for the other.
        body: The conversation, both replies and the principle, with `FIELDS` in braces.
        direct: The end of the question where the option is asked for at once.
        rationale: Its end where a rationale is asked for.
        verdict: The user turn after the rationale, on which the option is scored.
    """

    name: str
    options: tuple[str, str]
    body: str
    direct: str
    rationale: str
    verdict: str

    def ask(self, comparison: Comparison, criterion: Criterion, swapped: bool) -> tuple[Message, ...]:
        """One user turn that asks for the option; `swapped` shows the second reply first."""
        return (user(self._question(comparison, criterion, swapped) + self.direct),)

    def ask_why(self, comparison: Comparison, criterion: Criterion, swapped: bool) -> tuple[Message, ...]:
        """One user turn that asks for a rationale."""
        return (user(self._question(comparison, criterion, swapped) + self.rationale),)

    def ask_after(self, asked: Sequence[Message], rationale: str) -> tuple[Message, ...]:
        """The conversation with the judge once the rationale is there: a new user turn asks for the option."""
        return (*asked, assistant(strip_control_tokens(rationale)), user(self.verdict))

    def _question(self, comparison: Comparison, criterion: Criterion, swapped: bool) -> str:
        replies = (comparison.second, comparison.first) if swapped else (comparison.first, comparison.second)
        values = {
            "conversation": escaped_transcript(comparison.messages),
            "first": _escaped(replies[0]),
            "second": _escaped(replies[1]),
            "principle": criterion.principle,
            "compare": criterion.compare,
        }
        return fill(self.body, values)


PRINCIPLE = Template(
    name="principle",
    options=OPTIONS,
    body="{conversation}\n\nReply A: {first}\n\nReply B: {second}\n\n{compare} ",
    direct="Answer A or B.",
    rationale="Explain in a few sentences how each reply fares, before any choice.",
    verdict="So which reply is it? Answer A or B.",
)
RLAIF = Template(
    name="rlaif",
    options=("1", "2"),
    body=(
        "An assistant can go on with a conversation in two ways. A question at the end says what makes a reply good; "
        "by that alone decide which one is preferred, 1 or 2.\n\n"
        "Conversation - {conversation}\n\nReply 1 - {first}\n\nReply 2 - {second}\n\n{compare}\n"
    ),
    direct="Preferred reply =",
    rationale="Go through what speaks for each reply under this rule, and explain which is preferred.\nRationale:",
    verdict="Preferred reply =",
)
CAI = Template(
    name="cai",
    options=OPTIONS,
    body=(
        "Consider this conversation between a human and an assistant:\n\n{conversation}\n\n"
        "Options for what the assistant says next:\n(A) {first}\n(B) {second}\n\n{compare}\n"
    ),
    direct="The letter of the right option is:",
    rationale="Do not choose yet: think about it step by step.",
    verdict="So the letter of the right option is:",
)
SHIPPED = {template.name: template for template in (PRINCIPLE, RLAIF, CAI)}


def compare_messages(conversation: Sequence[Message], reply_a: str, reply_b: str, compare: str) -> tuple[Message, ...]:
    """The question of the `principle` template: what the sandbox model was taught to answer."""
    return PRINCIPLE.ask(Comparison("", tuple(conversation), reply_a, reply_b, ()), Criterion("", compare), swapped=False)


def escaped_transcript(conversation: Sequence[Message]) -> str:
    """The conversation as a judge reads it, each turn escaped."""
    return transcript([{"role": message["role"], "content": _escaped(message["content"])} for message in conversation])


_escaped = lru_cache(maxsize=4096)(escape)
"""A pair is asked about under many principles: its texts are escaped once."""


def load_template(name: str) -> Template:
    """The shipped template of that name, or the one in the text file `name`.

    Raises:
        UserError: There is none, or the file is no template.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = did_you_mean(name, SHIPPED)
        raise UserError(f"judge.template: there is no template or file {name}.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read as text ({error}); give judge.template a UTF-8 text file") from None
    return parse_template(path.stem, text, name)


def parse_template(name: str, text: str, where: str) -> Template:
    """A template from the text of a file; `where` names it in errors.

    The file has, in this order: a line `options: A, B` (that is the default), the body, and the sections `[direct]`,
    `[rationale]` and `[verdict]`, each a line with its name and the text under it (each has a default).
    Raises:
        UserError: An unknown or missing field or section, unpaired braces, an option that the prompt does not name.
    """
    options = OPTIONS
    if header := HEADER.match(text):
        options = (header[1], header[2])
        text = text[header.end() :]
    body, *parts = SECTION.split(text)
    sections = {key: value.strip() for key, value in zip(parts[::2], parts[1::2], strict=True)}
    for key in sections:
        if key not in SECTIONS:
            raise UserError(f"{where}: there is no section [{key}].{did_you_mean(key, SECTIONS)}")
    ending = f"Answer {options[0]} or {options[1]}."
    template = Template(
        name=name,
        options=options,
        body=body.strip() + "\n\n",
        direct=sections.get("direct", ending),
        rationale=sections.get("rationale", PRINCIPLE.rationale),
        verdict=sections.get("verdict", f"So which reply is it? {ending}"),
    )
    _check(template, where)
    return template


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `{field}` replaced by its value, once: braces in the values stay as they are."""
    return "".join(literal + (values[field] if field else "") for literal, field, _, _ in string.Formatter().parse(text))


def _check(template: Template, where: str) -> None:
    try:
        parsed = list(string.Formatter().parse(template.body))
    except ValueError as error:
        raise UserError(f"{where}: {error}; write {{{{ and }}}} for braces that are no field") from None
    found = {field for _, field, _, _ in parsed if field is not None}
    for _, field, spec, conversion in parsed:
        if field is not None and (field not in FIELDS or spec or conversion):
            written = field + ("!" + conversion if conversion else "") + (":" + spec if spec else "")
            raise UserError(
                f"{where}: there is no field {{{written}}}.{did_you_mean(field, FIELDS)} Write {{{{ for a plain brace."
            )
    for field in ("conversation", "first", "second"):
        if field not in found:
            raise UserError(f"{where}: the field {{{field}}} is missing, so the judge would not see it; put it in")
    if not found & {"principle", "compare"}:
        raise UserError(
            f"{where}: put in {{compare}} (the question) or {{principle}} (its text), or every principle asks the same"
        )
    if template.options[0] == template.options[1]:
        raise UserError(f"{where}: both options are {template.options[0]}; give two, e.g. `options: 1, 2`")
    for field, option in zip(("first", "second"), template.options, strict=True):
        before = [literal for literal, name, *_ in parsed if name == field]
        if not any(re.search(rf"(?<!\w){re.escape(option)}(?!\w)", literal) for literal in before):
            raise UserError(
                f"{where}: the judge cannot name {{{field}}}: put {option} before it, e.g. `Reply {option}: {{{field}}}`"
            )
