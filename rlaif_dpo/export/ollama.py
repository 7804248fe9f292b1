"""An Ollama Modelfile whose template writes what the model's own chat template writes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlaif_dpo.messages import Message, assistant, user
from rlaif_dpo.models.chat import settled_template, stop_ids

SYSTEM, FIRST, ANSWER, SECOND = "probesystem", "probefirst", "probeanswer", "probesecond"


@dataclass(frozen=True)
class Turns:
    """A chat template as the texts around each turn.

    Attributes:
        opening: Before the first turn where there is no system text: nothing, or the template's own system turn.
        system: Before and after the system text.
        user: Before and after what the user says.
        assistant: Before and after an answer.
        generation: Before the answer that is wanted.
    """

    opening: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation, up to where the assistant speaks."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        turns = "".join(message["content"].join(around[message["role"]]) for message in messages)
        return ("" if messages[0]["role"] == "system" else self.opening) + turns + self.generation

    def as_go(self) -> str:
        """The template in Go's language, as Ollama fills it in."""
        opening = f"{{{{ else }}}}{self.opening}" if self.opening else ""
        return (
            f"{{{{ if .System }}}}{'{{ .System }}'.join(self.system)}{opening}{{{{ end }}}}{{{{ range .Messages }}}}"
            f'{{{{ if eq .Role "user" }}}}{"{{ .Content }}".join(self.user)}'
            f'{{{{ else if eq .Role "assistant" }}}}{"{{ .Content }}".join(self.assistant)}{{{{ end }}}}{{{{ end }}}}'
            f"{self.generation}"
        )

    @property
    def default_system(self) -> str:
        """The system text that the template writes where there is none; empty if it writes none."""
        before, after = self.system
        fits = self.opening.startswith(before) and self.opening.endswith(after) and len(self.opening) > len(before) + len(after)
        return self.opening[len(before) : len(self.opening) - len(after)] if fits else ""


def modelfile(tokenizer: PreTrainedTokenizerBase, gguf: str, temperature: float, adds_bos: bool) -> str | None:
    """The Modelfile for the file `gguf` beside it; None where the chat template cannot be said in Go's language.

    The sampling is that of the run's evaluation: `temperature` and nothing cut off, so that answers are those of the evidence.
    With `adds_bos` the template leaves BOS out: Ollama puts it before the text.
    """
    turns = derive_turns(tokenizer, adds_bos)
    if turns is None:
        return None
    stops = [str(tokenizer.decode([id])) for id in sorted(stop_ids(tokenizer, None))]
    lines = [
        f"FROM ./{gguf}",
        f'TEMPLATE """{turns.as_go()}"""',
        *([f'SYSTEM """{turns.default_system}"""'] if turns.default_system else []),
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        f"PARAMETER temperature {temperature:g}",
        "PARAMETER top_k 0",
        "PARAMETER top_p 1",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def derive_turns(tokenizer: PreTrainedTokenizerBase, adds_bos: bool) -> Turns | None:
    """What a chat template writes around each turn, found by rendering probes; None if it is not as regular as `Turns`."""
    conversation: list[Message] = [_system(SYSTEM), user(FIRST), assistant(ANSWER), user(SECOND)]
    try:
        whole, bare = _rendered(tokenizer, conversation, adds_bos), _rendered(tokenizer, [user(FIRST)], adds_bos)
    except TemplateError:
        return None
    pieces = re.split("|".join((SYSTEM, FIRST, ANSWER, SECOND)), whole)
    if len(pieces) != 5 or bare.count(FIRST) != 1:
        return None
    ends = "|".join(re.escape(str(tokenizer.decode([id]))) for id in stop_ids(tokenizer, None))

    def cut(between: str) -> tuple[str, str]:
        """What closes a turn and what opens the next one."""
        closing = re.match(rf"(?:{ends})\s*", between)
        at = closing.end() if closing else 0
        return between[:at], between[at:]

    (system_end, user_start), (user_end, assistant_start), (assistant_end, _), (_, generation) = map(cut, pieces[1:])
    opening = bare.partition(FIRST)[0]
    turns = Turns(
        opening=opening.removesuffix(user_start),
        system=(pieces[0], system_end),
        user=(user_start, user_end),
        assistant=(assistant_start, assistant_end),
        generation=generation,
    )
    if any(mark in whole + bare for mark in ("{{", '"""')):
        return None
    probes = ([user("Hello")], conversation, [user("a"), assistant("b"), user("c"), assistant("d"), user("e")])
    return turns if all(turns.render(probe) == _rendered(tokenizer, probe, adds_bos) for probe in probes) else None


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], adds_bos: bool) -> str:
    turns = [{"role": str(message["role"]), "content": message["content"]} for message in messages]
    template = settled_template(tokenizer)
    text = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True))
    return text.removeprefix(str(tokenizer.bos_token)) if adds_bos else text
