"""Tokenizers with the splits of the families, trained on a few words."""

import re

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlaif_dpo.errors import UserError
from rlaif_dpo.export.vocabulary import CONTROL, NORMAL, SPLITS, UNUSED, USER_DEFINED, read_vocabulary
from rlaif_dpo.messages import user
from rlaif_dpo.models.chat import render
from tests.models.families import LLAMA3, QWEN3, SMOLLM3
from tests.tiny import CHATML, SPECIAL

TEXT = [
    "The 12 doctors' advice isn't clear: wait 3456 days, then don't call!\n\n  Numbers 789 and  spaces\t here, ünïcödé 你好."
] * 4


def byte_level(use_regex: bool, prefix: bool = False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def split(regex: str):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level(use_regex=False)])


def tokenizer_of(pre, bos: str | None = None, whole_words: bool = False, size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits text by `pre`; with `bos`, it puts that token before every text."""
    core = Tokenizer(models.BPE(ignore_merges=whole_words))
    core.pre_tokenizer = pre
    core.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *([bos] if bos else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=SPECIAL[0], eos_token=SPECIAL[2], bos_token=bos)
    tokenizer.chat_template = CHATML
    return tokenizer


def families() -> dict[str, PreTrainedTokenizerFast]:
    """A tokenizer for every name that llama.cpp is told."""
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)])
    found = {"gpt-2": tokenizer_of(byte_level(use_regex=True)), "smollm": tokenizer_of(digits)}
    for (regex, whole), name in SPLITS.items():
        found[name] = tokenizer_of(split(regex), "<|begin_of_text|>" if name == "llama-bpe" else None, whole)
    return found


@pytest.mark.parametrize(("name", "tokenizer"), families().items(), ids=families())
def test_the_split_has_a_name(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.splits == name
    assert [vocabulary.tokens[id] for id in tokenizer.encode("wait")] == tokenizer.convert_ids_to_tokens(tokenizer.encode("wait"))
    assert vocabulary.add_bos == (name == "llama-bpe")
    assert vocabulary.tokens[vocabulary.bos] == (tokenizer.bos_token or "<|im_end|>")
    assert vocabulary.chat_template == CHATML


def test_the_regexes_are_those_of_the_families() -> None:
    """As transformers itself writes them for Qwen 2 and for Llama 3."""
    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    names = {regex: name for (regex, _), name in SPLITS.items()}
    assert names[PRETOKENIZE_REGEX] == "qwen2"
    assert names[TikTokenConverter.__init__.__defaults__[1]] in ("llama-bpe", "dbrx")


def test_types_and_filling() -> None:
    """Three control tokens, one that a user added, and three rows of the embedding that have no token."""
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    tokenizer.add_tokens(["<think>"])
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 3)
    assert len(vocabulary.tokens) == len(vocabulary.types) == len(tokenizer) + 3
    assert vocabulary.types[:3] == (CONTROL,) * 3 and vocabulary.types[3] == NORMAL
    assert vocabulary.types[tokenizer.convert_tokens_to_ids("<think>")] == USER_DEFINED
    assert vocabulary.types[-3:] == (UNUSED,) * 3 and len(set(vocabulary.tokens)) == len(vocabulary.tokens)
    assert all(re.fullmatch(r"\S+ \S+", merge) for merge in vocabulary.merges)
    assert (vocabulary.eos, vocabulary.eot, vocabulary.pad) == (2, 2, 0)


@pytest.mark.parametrize("template", [QWEN3, LLAMA3, SMOLLM3], ids=["qwen 3", "llama 3", "smollm 3"])
def test_the_template_asks_for_nothing(template: str) -> None:
    """Other programs call it without a date, or open a thinking block: it writes what the model was trained on all the same."""
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    tokenizer.chat_template = template
    asked = [user("How are you?")]
    expected = render(tokenizer, asked)
    tokenizer.chat_template = read_vocabulary(tokenizer, len(tokenizer)).chat_template
    for variables in ({}, {"enable_thinking": True}):
        assert tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False, **variables) == expected


def test_the_end_of_a_turn_may_be_another_token_than_eos() -> None:
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.tokens[vocabulary.eos] == "<|endoftext|>"
    assert vocabulary.tokens[vocabulary.eot] == "<|im_end|>"


def sentencepiece() -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def lower_case() -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        sentencepiece(),
        lower_case(),
        tokenizer_of(byte_level(use_regex=True, prefix=True)),
        tokenizer_of(split(r"\w+")),
        tokenizer_of(byte_level(use_regex=True), whole_words=True),
    ],
    ids=["sentencepiece", "lower case", "prefix space", "unknown regex", "whole words"],
)
def test_others_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        UserError, match=r"its tokenizer \(BPE\) is not one of gpt-2, smollm, .*; run llama.cpp's convert_hf_to_gguf"
    ):
        read_vocabulary(tokenizer, len(tokenizer))


def test_a_vocabulary_larger_than_the_embedding_is_refused() -> None:
    tokenizer = tokenizer_of(byte_level(use_regex=True))
    size = len(tokenizer)
    with pytest.raises(UserError, match=f"has {size} tokens and its embedding {size - 1} rows"):
        read_vocabulary(tokenizer, size - 1)
