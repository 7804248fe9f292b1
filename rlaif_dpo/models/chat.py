"""Messages to token ids, by the model's own chat template. Message text is data: it never becomes a control token."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlaif_dpo.errors import UserError
from rlaif_dpo.messages import Message, assistant, user
from rlaif_dpo.seeding import content_hash

# Templates that take these always get the same values: no thinking block is left open, no date changes from run to resume.
TEMPLATE_VARIABLES: dict[str, Any] = {"enable_thinking": False, "date_string": "01 Jan 2025"}
STILL = "{% macro strftime_now(format) %}01 Jan 2025{% endmacro %}"
"""Put before a template that asks for the date: it gets this one."""
PROBE = "sentinel"
MARKER = re.compile(r"<\|\w+\|>|\[/?INST\]|<</?SYS>>")
"""How templates write who speaks, where that is no token of its own (OLMo 2, Llama 2)."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """Token ids of the conversation; with `add_generation_prompt`, up to where the assistant speaks.

    Raises `jinja2.TemplateError` for a conversation that the template does not take (an assistant first, no user turn, ...).
    """
    return _apply(tokenizer, clean(tokenizer, messages), add_generation_prompt)


def clean(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Message]:
    """The conversation as the template takes it.

    Control tokens are removed from the texts, consecutive turns of one speaker are joined (many templates demand strict
    alternation), and where the template has no system role the system text opens the first user turn.
    """
    turns: list[Message] = []
    for message in messages:
        text = strip_control_tokens(tokenizer, message["content"])
        if turns and turns[-1]["role"] == message["role"]:
            text = f"{turns.pop()['content']}\n\n{text}"
        turns.append({"role": message["role"], "content": text})
    if len(turns) > 1 and turns[0]["role"] == "system" and not _takes_system_role(tokenizer, _template(tokenizer)):
        system, first, *rest = turns
        if first["role"] == "user":
            return [user(f"{system['content']}\n\n{first['content']}"), *rest]
        return [user(system["content"]), first, *rest]
    return turns


def strip_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without any string that the tokenizer reads as a control token, nor one by which the template marks a speaker.

    None is left that appears when others are removed, either.
    """
    pattern = _control_pattern(tokenizer, _template(tokenizer))
    while pattern is not None and (shorter := pattern.sub("", text)) != text:
        text = shorter
    return text


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Content hash of the chat template."""
    return content_hash(_template(tokenizer))


def stop_ids(tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None) -> frozenset[int]:
    """The token ids that end an answer: `configured` ones, EOS, and the control token that closes a turn in the template."""
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    closed = _apply(tokenizer, [user(PROBE), assistant(PROBE)], False)
    controls = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    last_text = max((i for i, id in enumerate(closed) if id not in controls and str(tokenizer.decode([id])).strip()), default=-1)
    ids.update([id for id in closed[last_text + 1 :] if id in controls][:1])
    return frozenset(ids)


def settled_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template with its variables' values written into it: in other programs, too, it writes what `render` does."""
    return _settled(_template(tokenizer))


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
    turns = [{"role": str(m["role"]), "content": m["content"]} for m in messages]
    ids = cast(
        list[int],
        tokenizer.apply_chat_template(
            turns,
            chat_template=settled_template(tokenizer),
            add_generation_prompt=add_generation_prompt,
            return_dict=False,
        ),
    )
    # A template that writes BOS and a tokenizer that adds one too would give two.
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        return ids[1:]
    return ids


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path} has no chat template: use the instruction-tuned version of the model, "
            "or put a chat_template.jinja into its folder."
        ) from None


def _settled(template: str) -> str:
    values = (f"{{% set {name} = {json.dumps(value)} %}}" for name, value in TEMPLATE_VARIABLES.items() if name in template)
    return "".join(values) + (STILL if "strftime_now" in template else "") + template


@lru_cache(maxsize=16)
def _control_pattern(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str] | None:
    # Special tokens, and added ones that the template itself writes (`<think>`, `<|user|>`): a message could forge turns.
    added = tokenizer.added_tokens_decoder.values()
    tokens = {token.content for token in added if token.special or token.content in template} | set(MARKER.findall(template))
    spelled = sorted((t for t in tokens | set(tokenizer.all_special_tokens) if t.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None


@lru_cache(maxsize=16)
def _takes_system_role(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    asked = [{"role": "system", "content": PROBE}, {"role": "user", "content": "x"}]
    answered = [*asked, {"role": "assistant", "content": "y"}]
    still = _settled(template)
    try:
        rendered = [str(tokenizer.apply_chat_template(turns, chat_template=still, tokenize=False)) for turns in (asked, answered)]
    except TemplateError:
        return False
    # Mistral's template shows the system text only while the user has the last word: then the prompt changes with its answer.
    return all(PROBE in text for text in rendered)
