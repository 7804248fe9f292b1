import pytest

from rlaif_dpo.evaluate.text import boilerplate, distinct, repetition, text_statistics, words


def answer(text: str, tokens: int = 4, finish: str = "stop") -> dict:
    return {"text": text, "completion_tokens": tokens, "finish_reason": finish}


def test_words() -> None:
    assert words("Don't guess: a well-known drug, café!") == ("don't", "guess", "a", "well-known", "drug", "café")


def test_distinct() -> None:
    """ "a b a" and "a b": 5 words of 2 kinds = .4; bigrams ab, ba, ab = 2 kinds of 3."""
    texts = [words("a b a"), words("a b")]
    assert distinct(texts, 1) == pytest.approx(2 / 5)
    assert distinct(texts, 2) == pytest.approx(2 / 3)
    assert distinct([()], 1) is None


def test_repetition() -> None:
    """8 words "a b c d a b c d" have 5 4-grams: abcd bcda cdab dabc abcd, 4 kinds: 1 - 4/5 = .2."""
    assert repetition(words("a b c d a b c d")) == pytest.approx(0.2)
    assert repetition(words("a b c")) == 0


def test_text_statistics() -> None:
    found = text_statistics([answer("one two three", 6), answer("one", 2, "length"), answer("", 0)])
    assert found["answers"] == 3
    assert found["empty"] == 1
    assert found["words"] == {"mean": pytest.approx(4 / 3), "median": 1}
    assert found["tokens"] == {"mean": pytest.approx(8 / 3), "median": 2}
    assert found["eos"] == pytest.approx(2 / 3)
    assert text_statistics([])["words"] == {"mean": None, "median": None}


def test_boilerplate_finds_the_phrase_that_took_over_and_says_it_once() -> None:
    closer = "you are valid valued and cared for"
    base = [f"answer number {i} is plain. {closer}" if i == 0 else f"answer number {i} is plain" for i in range(10)]
    later = [f"reply {i}, {closer}!" if i < 8 else f"reply {i}" for i in range(10)]
    found = boilerplate(base, later)
    assert found[0] == {"phrase": closer, "base": 0.1, "later": 0.8}
    assert len(found) == 1, "sub-phrases of the closer must not be listed beside it"


def test_boilerplate_ignores_what_only_one_answer_says_and_what_shrank() -> None:
    same = "this phrase was always here anyway"
    assert boilerplate([same] * 4, [same] * 3 + ["something that is said by one answer only"]) == []
    assert boilerplate(["a"], []) == []
