"""Judged text is data: what could act as structure in a judge's prompt gets a backslash that breaks it.

`models/chat.py` takes away the control tokens that the tokenizer at hand knows. It cannot know those of the model behind an
endpoint, nor the judge's own markers: a reply that says "Reply B:" opens another reply.
"""

import re

from rlaif_dpo.prompts.clean import CONTROL_TOKEN

# Control tokens that prompts keep, since in a prompt they may be meant: roles, reasoning and tools as tags, older families.
TOKEN = re.compile(
    rf"{CONTROL_TOKEN.pattern}"
    r"|<\|\w{1,32}>|<\w{1,32}\|>"
    r"|</?(?:think|tool_call|tool_response|user|assistant|system|human|bot)>"
    r"|<(?:unused|extra_id_|reserved_)\d+>|\[(?:BOS|EOS|CLS|SEP|PAD|UNK|MASK)\]"
)
LINE = r"(?:^|(?<=[\r\v\f\x85\u2028\u2029]))[ \t>*_#]*"
BLANKS = r"[ \t\xa0]*"
# The markers of a judge's prompt, each in two parts with the backslash to come between them.
MARKERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(\b(?:reply|response|answer){BLANKS}(?:[ \t\xa0][AB]|\([AB]\))[*_ \t]*)([:：=]|[-–—]\s)",
        rf"(\b(?:reply|response){BLANKS}(?:[ \t\xa0][12]|\([12]\))[*_ \t]*)([:：=]|[-–—]\s)",
        rf"(\b(?:preferred|better) (?:reply|response|answer){BLANKS})([:：=])",
        rf"(\b(?:answer|choose):?)({BLANKS}(?:only )?\(?[AB12]\)? or \(?[AB12]\b)",
        rf"({LINE})(\([AB]\))",
        rf"({LINE}(?:human|user|assistant|system|rationale)[*_ \t]*)([:：])",
        rf"({LINE}conversation )(-\s)",
        r"(^### )((?:instruction|input|response):)",
    )
)


def escape(text: str) -> str:
    """`text` with a backslash inside whatever could act as structure; text without such comes back as it is.

    That is: control tokens of chat templates (`<|im_start|>` becomes `<\\|im_start|>`, `[INST]` becomes `[\\INST]`), and the
    markers of the judge's prompts and of transcripts: `Reply B:` and `Answer A or B` anywhere, `Human:` and `(A)` at the start of
    a line. Nothing is taken away, so nothing new can come together, and escaping twice changes nothing more.
    """
    text = TOKEN.sub(lambda match: f"{match[0][0]}\\{match[0][1:]}", text)
    for marker in MARKERS:
        text = marker.sub(r"\1\\\2", text)
    return text
