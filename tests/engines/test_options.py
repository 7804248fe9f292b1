import random
from dataclasses import replace
from math import exp, log

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlaif_dpo.engines import options as options_module
from rlaif_dpo.engines.base import OptionRequest
from rlaif_dpo.engines.options import OptionRow, option_logprobs, option_spellings, plan_groups
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.errors import UserError
from rlaif_dpo.judges.templates import compare_messages
from rlaif_dpo.messages import user
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import load_model
from rlaif_dpo.recipe.schema import Model
from tests.tiny import CHATML, tiny_model_folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), weight_scale=0.3, context_length=2048)
    return load_model(Model(path=str(folder), dtype="float32"))


def judged(pairs=4, principles=5):
    """Requests as a judge makes them: of one pair and order only the last sentence differs."""
    rng = random.Random(0)
    words = ["hello", "yes", "no", "reply", "it is", "not"]
    made = []
    for n in range(pairs):
        first, second = (" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(2))
        for k in range(principles):
            for order, pair in (("ab", (first, second)), ("ba", (second, first))):
                question = " ".join(rng.choices(words, k=3 + k))
                made.append(OptionRequest(f"{n}/{k}/{order}", compare_messages([user("hello it")], *pair, question), ("A", "B")))
    return made


def by_hand(loaded, request):
    """No batch, no cache: log-softmax at the last position, the spellings' probabilities added up."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([render(loaded.tokenizer, request.messages)], device=loaded.device)).logits[0, -1]
    probabilities = logits.double().softmax(-1)
    return [float(probabilities[[i for (i,) in ids]].sum().log()) for ids in option_spellings(loaded.tokenizer, request.options)]


def test_spellings_of_an_option(loaded):
    """The tiny tokenizer has the single tokens A and B, alone, after a space, and in lower case."""
    t = loaded.tokenizer
    a, b = option_spellings(t, ("A", "B"))
    assert {t.decode(i) for i in a} >= {"A", " A", "a"} and {t.decode(i) for i in b} >= {"B", " B", "b"}
    assert {t.decode(i).strip(" \n(.):*").upper() for i in a} == {"A"} and not set(a) & set(b)
    assert all(len(i) == 1 for i in (*a, *b))
    upper, lower = option_spellings(t, ("A", "a"))
    assert not set(upper) & set(lower)


def test_an_option_that_the_vocabulary_cannot_write_is_refused():
    core = Tokenizer(models.WordLevel({"<unk>": 0, "A": 1, "B": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert option_spellings(tokenizer, ("A", "B")) == (((1,),), ((2,),))
    with pytest.raises(UserError, match="'10' cannot be written"):
        option_spellings(tokenizer, ("A", "10"))


SCORES = tuple(str(i) for i in range(1, 11))


def with_digits(loaded, kind):
    """The tiny model with another tokenizer: "10" one token (`whole`), two (`split`), or two after a word-start mark (`mark`)."""
    core = Tokenizer(models.BPE(unk_token=None))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if kind != "whole" else []
    start = pre_tokenizers.Metaspace() if kind == "mark" else pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [*([start] if kind == "mark" else []), *digits, *([] if kind == "mark" else [start])]
    )
    alphabet = ["\u2581", *"0123456789"] if kind == "mark" else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["10 10 10 rate it user assistant 0 1 2 3 4 5 6 7 8 9"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return replace(loaded, tokenizer=tokenizer)


@pytest.mark.parametrize(("kind", "ten"), [("whole", ["10"]), ("split", ["1", "0"]), ("mark", ["\u2581", "1", "0"])])
def test_ten_is_never_counted_as_one(loaded, kind, ten):
    """By hand, token by token without a cache: P(10) is a product over its tokens; P(1) is p(1) less what goes on to 0.

    Every spelling counts: "1" alone, and after a space or word-start mark where that is a token of its own.
    """
    digits = with_digits(loaded, kind)
    t = digits.tokenizer
    assert t.tokenize("10") == ten
    asked = [OptionRequest(str(n), (user(f"rate it hello {'hello ' * n}"),), SCORES) for n in range(3)]
    scores = {s.id: s for s in TransformersEngine(digits).score_options(asked)}

    def probability(prompt, *tokens):
        product = 1.0
        for token in tokens:
            with torch.no_grad():
                logits = digits.model(torch.tensor([prompt])).logits[0, -1].double()
            product *= float(logits.softmax(-1)[token])
            prompt = [*prompt, token]
        return product

    for request in asked:
        prompt = list(render(t, request.messages))
        zero = t.convert_tokens_to_ids("0")
        expected = []
        for score in SCORES:
            spellings = option_spellings(t, SCORES)[SCORES.index(score)]
            total = sum(probability(prompt, *spelling) for spelling in spellings)
            if score == "1" and kind != "whole":
                total -= sum(probability(prompt, *spelling, zero) for spelling in spellings)
            expected.append(log(total))
        got = scores[request.id]
        assert got.logprobs == pytest.approx(expected, abs=1e-4)
        assert got.mass == pytest.approx(sum(map(exp, expected)), abs=1e-5) and got.mass < 1


def test_what_goes_on_to_another_option_is_taken_off_exactly():
    """p(1) = .5, p(0 | 1) = .8, p(2) = .2: P(1) = .5 x .2 = .1, P(10) = .4, P(2) = .2. Control: unsplit, P(1) would be .5."""
    one, two, zero = 0, 1, 2
    after = {(): {one: log(0.5), two: log(0.2), zero: log(0.3)}, (one,): {one: log(0.1), two: log(0.1), zero: log(0.8)}}
    logprobs = option_logprobs((((one,),), ((two,),), ((one, zero),)), after)
    assert [exp(x) for x in logprobs] == pytest.approx([0.1, 0.2, 0.4])
    assert [exp(x) for x in option_logprobs((((one,),), ((two,),)), after)] == pytest.approx([0.5, 0.2])


def test_split_options_share_prefixes_and_batches_too(loaded):
    digits = with_digits(loaded, "split")
    asked = [OptionRequest(f"{n}/{k}", (user("rate it " * (5 + n) + "hello" * k),), SCORES) for n in range(3) for k in range(4)]
    mixed = [*asked, OptionRequest("ab", (user("hello"),), ("A", "B"))]
    together = {s.id: s.logprobs for s in TransformersEngine(digits).score_options(mixed)}
    for request in mixed:
        (alone,) = TransformersEngine(digits).score_options([request])
        assert together[request.id] == pytest.approx(alone.logprobs, abs=1e-4)


def test_scores_are_those_of_one_pass_a_row(loaded):
    asked = judged(pairs=2, principles=1)
    scores = {s.id: s for s in TransformersEngine(loaded).score_options(asked)}
    for request in asked:
        expected = by_hand(loaded, request)
        assert scores[request.id].logprobs == pytest.approx(expected, abs=1e-4)
        assert scores[request.id].mass == pytest.approx(sum(map(exp, expected)), abs=1e-4)
        assert scores[request.id].prompt_tokens == len(render(loaded.tokenizer, request.messages))


@pytest.mark.parametrize("budget", [1, 700, 16384])
def test_shared_prefixes_change_no_score(loaded, monkeypatch, budget):
    asked = judged()
    engine = TransformersEngine(loaded, max_batch_tokens=budget)
    shared = {s.id: s.logprobs for s in engine.score_options(asked)}
    monkeypatch.setattr(options_module, "plan_groups", lambda rows: [[row] for row in rows])
    plain = {s.id: s.logprobs for s in engine.score_options(asked)}
    assert shared.keys() == plain.keys() == {r.id for r in asked}
    assert all(shared[i] == pytest.approx(plain[i], abs=1e-4) for i in plain)


def test_the_prefix_of_a_pair_is_computed_once(loaded, monkeypatch):
    """4 pairs x 2 orders: the first pass has 8 rows, the second the 40 short rests; the tokens computed are far fewer."""
    asked, shapes = judged(), []
    forward = loaded.model.forward

    def spy(**inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(loaded.model, "forward", spy)
    list(TransformersEngine(loaded).score_options(asked))
    assert [rows for rows, _ in shapes] == [8, 40]
    longest = max(len(render(loaded.tokenizer, r.messages)) for r in asked)
    assert sum(rows * width for rows, width in shapes) < 0.6 * 40 * longest


def test_groups_do_not_depend_on_the_order_of_the_rows():
    """Prompts 0..9+tail share 10 of 12 tokens; one shares 3 of 12 with them and stays alone."""
    rows = [OptionRow(str(i), (*range(10), 50 + i, 60), ()) for i in range(4)] + [OptionRow("x", (0, 1, 2, *[9] * 9), ())]
    groups = plan_groups(rows)
    assert sorted(len(group) for group in groups) == [1, 4]
    assert plan_groups(rows[::-1]) == groups


def test_equal_prompts_keep_a_token_for_the_second_pass(loaded):
    request = judged(pairs=1, principles=1)[0]
    twins = [OptionRequest(f"twin{i}", request.messages, ("A", "B")) for i in range(3)]
    scores = list(TransformersEngine(loaded).score_options(twins))
    assert len(scores) == 3 and all(s.logprobs == pytest.approx(by_hand(loaded, request), abs=1e-4) for s in scores)


def test_skip_and_a_failing_row(loaded, monkeypatch):
    asked = judged(pairs=2, principles=2)
    good = {s.id: s.logprobs for s in TransformersEngine(loaded).score_options(asked)}
    assert {s.id for s in TransformersEngine(loaded).score_options(asked, skip=set(good) - {"1/0/ab"})} == {"1/0/ab"}
    plan = options_module.plan_groups

    def broken(rows):
        if any(row.id == "0/1/ba" for row in rows):
            raise RuntimeError("broken")
        return plan(rows)

    monkeypatch.setattr(options_module, "plan_groups", broken)
    scores = {s.id: s for s in TransformersEngine(loaded).score_options(asked)}
    assert {i: s.error for i, s in scores.items() if s.error} == {"0/1/ba": "RuntimeError: broken"}
    assert all(scores[i].logprobs == pytest.approx(good[i], abs=1e-4) for i in good if i != "0/1/ba")
