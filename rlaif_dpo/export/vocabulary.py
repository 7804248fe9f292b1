"""A byte-level BPE tokenizer in the words of GGUF: tokens, types, merges, the name of its pre-tokeniser, special ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlaif_dpo.errors import UserError
from rlaif_dpo.models.chat import settled_template, stop_ids

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""GGUF's `tokenizer.ggml.token_type`."""

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (rf"{WORDS}|\p{{N}}{{1,3}}|{REST}", True): "llama-bpe",
    (rf"{WORDS}|\p{{N}}{{1,3}}|{REST}", False): "dbrx",
    (rf"{WORDS}|\p{{N}}|{REST}", False): "qwen2",
}
"""llama.cpp's names by how a tokenizer splits text and whether a whole word in the vocabulary is taken without its merges."""


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF keeps of a tokenizer.

    Attributes:
        tokens: By id, in the byte-level alphabet; as many as the model's embedding has rows.
        types: NORMAL, CONTROL, USER_DEFINED or UNUSED, by id.
        merges: Pairs with a space between, the first merge first.
        splits: llama.cpp's name for how text is split before the merges.
        bos: Begins a text; EOS where the tokenizer has none.
        eos: Ends a text.
        eot: Ends a turn; may be `eos`.
        pad: Fills a batch.
        add_bos: Whether the tokenizer itself puts `bos` before a text.
        chat_template: In Jinja; without a choice that a program could make otherwise (thinking, the date).
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    splits: str
    bos: int
    eos: int
    eot: int
    pad: int
    add_bos: bool
    chat_template: str


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The vocabulary of `tokenizer`, filled up to `size` tokens.

    Raises:
        UserError: It is no byte-level BPE, or splits text in a way whose name in llama.cpp is not known here.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise unsupported(tokenizer.name_or_path, "its tokenizer is not a fast one")
    spec = json.loads(backend.to_str())
    splits = _splits(spec)
    if splits is None:
        kind = spec["model"]["type"] + (" with byte fallback" if spec["model"].get("byte_fallback") else "")
        raise unsupported(
            tokenizer.name_or_path, f"its tokenizer ({kind}) is not one of gpt-2, smollm, {', '.join(SPLITS.values())}"
        )
    by_id = {id: token for token, id in tokenizer.get_vocab().items()}
    if max(by_id) >= size:
        raise unsupported(tokenizer.name_or_path, f"its tokenizer has {max(by_id) + 1} tokens and its embedding {size} rows")
    added, bos, stops = tokenizer.added_tokens_decoder, tokenizer.bos_token_id, sorted(stop_ids(tokenizer, None))
    if not stops:
        raise unsupported(tokenizer.name_or_path, "no token ends its turns")
    eos = stops[0] if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return Vocabulary(
        tokens=tuple(by_id.get(id, f"[PAD{id}]") for id in range(size)),
        types=tuple(
            UNUSED if id not in by_id else NORMAL if id not in added else CONTROL if added[id].special else USER_DEFINED
            for id in range(size)
        ),
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]),
        splits=splits,
        bos=eos if bos is None else bos,
        eos=eos,
        eot=next((stop for stop in stops if stop != eos), eos),
        pad=tokenizer.pad_token_id,
        add_bos=bos is not None and tokenizer.encode("a")[:1] == [bos],
        chat_template=settled_template(tokenizer),
    )


def unsupported(model: str, why: str) -> UserError:
    """What to tell of a model that GGUF is not written of here."""
    return UserError(f"{model}: no GGUF, {why}; run llama.cpp's convert_hf_to_gguf.py on the merged folder instead.")


def _splits(spec: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer splits text; None if it has none that we know."""
    model, normal = spec["model"], (spec["normalizer"] or {}).get("type")
    if model["type"] != "BPE" or model.get("byte_fallback") or normal not in (None, "NFC") or spec["pre_tokenizer"] is None:
        return None
    *first, last = spec["pre_tokenizer"].get("pretokenizers", [spec["pre_tokenizer"]])
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    whole = bool(model.get("ignore_merges"))
    if last.get("use_regex", True):
        if whole:
            return None
        digits = [step.get("individual_digits") for step in first if step["type"] == "Digits"]
        return "gpt-2" if not first else "smollm" if digits == [True] and len(first) == 1 else None
    if len(first) != 1 or first[0]["type"] != "Split" or first[0]["behavior"] != "Isolated" or first[0]["invert"]:
        return None
    return SPLITS.get((first[0]["pattern"].get("Regex"), whole))
