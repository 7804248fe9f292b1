"""Modelfiles, and their templates filled in by a few lines that read the part of Go's template language they use."""

import re
from typing import Any

import pytest

from rlaif_dpo.export.ollama import derive_turns, modelfile
from rlaif_dpo.messages import Message, assistant, user
from rlaif_dpo.models.chat import render, stop_ids
from tests.export.test_vocabulary import byte_level, tokenizer_of
from tests.models.families import LLAMA3, QWEN3
from tests.tiny import CHATML

LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{{ '<|header|>system<|header_end|>\\n\\nToday: ' + date_string + '\\n\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|im_end|>' }}{% for m in messages %}{{ '<|header|>' + m['role'] + '<|header_end|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|header_end|>\\n\\n' }}{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
NO_THINKING = CHATML.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
SYSTEM_LAST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if loop.last and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] }}\n\n{% endif %}{{ m['content'] }}[/INST]{% elif m['role'] == 'assistant' %}"
    "{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
TEMPLATES = {
    "chatml": (CHATML, None), "llama-3": (LLAMA_3, "<|begin_of_text|>"), "default system": (DEFAULT_SYSTEM, None),
    "no thinking": (NO_THINKING, None), "thinking unless told": (QWEN3, None), "today": (LLAMA3, "<|begin_of_text|>"),
}  # fmt: skip
"""Chat templates that Ollama's language can say, each with the BOS that its tokenizer puts before a text."""
SYSTEM: Message = {"role": "system", "content": "Be brief."}
CONVERSATIONS: tuple[list[Message], ...] = (
    [user("How are you?")],
    [SYSTEM, user("How are you?")],
    [user("One"), assistant("Two {{ x }}"), user("Three")],
    [SYSTEM, user("One"), assistant("Two"), user("Three"), assistant("Four"), user('Five """')],
)


def chat(template: str, bos: str | None = None):
    tokenizer = tokenizer_of(byte_level(use_regex=True), bos)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|header|>", "<|header_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def fill_in(template: str, messages: list[Message]) -> str:
    """What Go's text/template makes of `if`, `else`, `else if eq`, `range .Messages` and fields, as Ollama calls it."""
    parts = re.split(r"\{\{ (.*?) \}\}", template)
    facts: dict[str, Any] = {"System": "\n\n".join(m["content"] for m in messages if m["role"] == "system"), "Messages": messages}

    def holds(test: str, here: dict[str, Any]) -> bool:
        if compared := re.fullmatch(r'eq \.(\w+) "(\w+)"', test):
            return bool(here[compared[1]] == compared[2])
        return bool(here[test.removeprefix(".")])

    def run(at: int, here: dict[str, Any], live: bool) -> tuple[str, int, str]:
        """The text from part `at` up to the action that ends this block; its place and itself."""
        out = ""
        while at < len(parts):
            if at % 2 == 0:
                out += parts[at] if live else ""
            elif parts[at].startswith("."):
                out += here[parts[at][1:]] if live else ""
            elif parts[at].startswith("range "):
                begin = at + 1
                for message in messages if live else []:
                    out += run(begin, {"Role": message["role"], "Content": message["content"]}, True)[0]
                at = run(begin, here, False)[1]
            elif parts[at].startswith("if "):
                done, branch = False, parts[at]
                while branch != "end":
                    test = re.fullmatch(r"(?:else )?if (.*)", branch)
                    chosen = live and not done and (test is None or holds(test[1], here))
                    text, at, branch = run(at + 1, here, chosen)
                    out, done = out + text, done or chosen
            else:
                return out, at, parts[at]
            at += 1
        return out, at, ""

    return run(0, facts, True)[0]


@pytest.mark.parametrize(("template", "bos"), TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system", "turns", "all"])
def test_ollama_writes_what_the_chat_template_writes(template: str, bos: str | None, messages: list[Message]) -> None:
    """Token by token what the model was trained on; BOS comes from the tokenizer where it puts one before every text."""
    tokenizer = chat(template, bos)
    turns = derive_turns(tokenizer, adds_bos=bos is not None)
    assert turns is not None
    filled = fill_in(turns.as_go(), messages)
    assert tokenizer.encode(filled) == render(tokenizer, messages)


def test_the_modelfile() -> None:
    text = modelfile(chat(DEFAULT_SYSTEM), "desk-f16.gguf", 0.7, adds_bos=False)
    assert text is not None
    assert text.startswith(
        'FROM ./desk-f16.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ else }}'
    )
    assert '\nSYSTEM """You are helpful."""\n' in text
    assert '\nPARAMETER stop "<|im_end|>"\n' in text
    assert "\nPARAMETER temperature 0.7\n" in text
    assert "SYSTEM" not in str(modelfile(chat(CHATML), "x.gguf", 1.0, adds_bos=False))


def test_every_stop_token_stops_ollama() -> None:
    tokenizer = chat(CHATML)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    text = str(modelfile(tokenizer, "x.gguf", 1.0, adds_bos=False))
    assert text.count("PARAMETER stop") == len(stop_ids(tokenizer, None)) == 2


@pytest.mark.parametrize(
    "template", [SYSTEM_LAST, NO_SYSTEM, CHATML + '"""'], ids=["system in the last turn", "no system", "quotes"]
)
def test_what_go_cannot_say_has_no_modelfile(template: str) -> None:
    assert modelfile(chat(template), "x.gguf", 1.0, adds_bos=False) is None


def test_a_template_that_changes_with_the_length_has_none() -> None:
    """The control of the check on longer conversations: the probes of one turn fit, those of several do not."""
    assert modelfile(chat(CHATML + "{% if messages | length > 4 %} long{% endif %}"), "x.gguf", 1.0, adds_bos=False) is None
