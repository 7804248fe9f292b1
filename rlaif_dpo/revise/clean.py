"""What models wrap around a revision or a critique, taken off; and what a text gives away about itself."""

import re

_THING = r"(?:reply|response|answer|version|text|message)"
_REVISED = rf"(?:revised|rewritten|improved|updated|edited|corrected)(?:,? \w+)? {_THING}"
# "Sure, here is a revised reply:" must name a revised thing and end in a colon, so that "Sure, here's how:" is left alone
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|understood)\b[^\n:]{0,20}?[,.!]?\s+)?"
    rf"(?:(?:here|below|this)\b[^\n:]{{0,40}}\b(?:revision|rewrite|{_REVISED})"
    rf"|i(?:['’]ve| have)? (?:revised|rewritten|rewrote) (?:the|my)(?: \w+)? {_THING})\b[^\n:]{{0,80}}:\s*",
    re.IGNORECASE,
)
_REVISION_LABEL = re.compile(rf"^\W{{0,2}}(?:revision|{_REVISED}):\s*(?:\*\*)?\s*", re.IGNORECASE | re.MULTILINE)
_SPEAKER = re.compile(r"^(?:assistant|ai|reply|response):\s*", re.IGNORECASE)
# the model plays on: the next request, another critique, or the user's turn
_NEXT_TURN = re.compile(r"^(?:critique(?: ?request)?|revision ?request|human|user):", re.IGNORECASE | re.MULTILINE)
_CRITIQUE_LABEL = re.compile(r"^critique:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "«": "»"}


def clean_revision(text: str) -> str:
    """The reply in a model's revision turn: preambles, labels, whole-text quotes and a leaked critique are taken off.

    A turn that is only a critique, or that goes on with a conversation of its own, leaves what stands before it: maybe nothing.
    """
    text = text.strip()
    if _CRITIQUE_LABEL.match(text):
        revision = _REVISION_LABEL.search(text)
        text = text[revision.start() :] if revision else ""
    before = None
    while text != before:
        before = text
        for label in (_PREAMBLE, _REVISION_LABEL, _SPEAKER):
            match = label.match(text)
            text = text[match.end() :].strip() if match else text
    next_turn = _NEXT_TURN.search(text)
    text = text[: next_turn.start()].strip() if next_turn else text
    return _unquote(text)


def clean_critique(text: str) -> str:
    """The critique without its label, and without a revision that the model wrote before it was asked."""
    text = _CRITIQUE_LABEL.sub("", text.strip())
    early = re.search(r"^(?:revision(?: ?request)?|critique ?request):", text, re.IGNORECASE | re.MULTILINE)
    return text[: early.start()].strip() if early else text


def _unquote(text: str) -> str:
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1]:
        inner = text[1:-1]
        if text[0] not in inner and text[-1] not in inner:
            return inner.strip()
    return text


_REPLY = r"the (?:\w+(?:['’]s)? ){0,2}(?:reply|response|answer)"
_SUBJECT = (
    r"(?:there(?:['’]s| is| are| was| were)|i (?:see|find|found|have)|it (?:is|has)"
    rf"|{_REPLY} (?:is|was|has|had|shows|contains|needs))\s+"
)
_NOUN = r"(?:problem|issue|fault|flaw|critique|criticism|concern|violation|change|revision)s?"
_TO_MEND = r"to (?:mend|fix|change|correct|criti[cs]i[sz]e|improve|revise|add)"
_CLEAN = (
    rf"(?:no (?!other|further|more|additional)(?:\w+ )?{_NOUN}|nothing (?:is |was |here is )?(?:wrong|harmful|{_TO_MEND})"
    r"|(?:already |perfectly |entirely |completely )?(?:fine|acceptable|appropriate|good))"
)
_NEEDED = r"(?:found|needed|necessary|required)"
_SCOPE = rf"(?:\s+(?:here|at all|(?:(?:is|are|was|were) )?{_NEEDED}|(?:with|in|about) (?:it|this|{_REPLY})))*"
_NO_FAULT = re.compile(rf"^(?:overall, )?(?:{_SUBJECT})?{_CLEAN}{_SCOPE}\s*(?:$|[.!,;:–—-])")
_CONTRAST = re.compile(r"\b(?:but|however|although|though|except|yet)\b")


def finds_fault(critique: str) -> bool:
    """Whether a critique names a fault. "There is no problem." and its kin do not; "No problem with the tone, but ..." does.

    In doubt, and for an empty critique, the answer is yes: only a critique that says so clears a reply.
    """
    text = " ".join(critique.lower().split()).replace("*", "")
    sentences = re.split(r"(?<=[.!?])\s+", text)
    clean = any(_NO_FAULT.match(sentence) for sentence in (sentences[0], sentences[-1]))
    return not clean or bool(_CONTRAST.search(text))


_TOKEN = re.compile(r"[぀-ヿ㐀-鿿가-힯]|\w+|[^\w\s]")


def repetition(text: str, n: int = 4) -> float:
    """The share of `n`-grams of words and signs that occurred before in `text`; 0 for a text shorter than `n`."""
    tokens = _TOKEN.findall(text.lower())
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
