"""The engine on tiny random models.

Where texts are compared across batch shapes, the arithmetic is float64: rounding then moves the cumulative distribution by
about 1e-15, so of some 1e4 draws none is expected to change (1e-11).
"""

from dataclasses import replace

import pytest
import torch

from rlaif_dpo.engines import decode as decode_module
from rlaif_dpo.engines.base import OptionRequest, Request, Sampling
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.models.adapters import add_adapter
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import load_model
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.seeding import derive_seed
from tests.tiny import tiny_adapter_folder, tiny_model_folder

WORDS = ("hello", "yes it is", "no it is not a reply", "A B A B A B A B", "what?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"), weight_scale=0.3)


@pytest.fixture
def loaded(folder):
    loaded = load_model(Model(path=str(folder), dtype="float32"))
    loaded.model.double()
    # A random model hardly ever says <|im_end|>: give it thirty more ways to stop, about one in ten tokens.
    loaded.model.generation_config.eos_token_id = [loaded.tokenizer.eos_token_id, *range(100, 130)]
    return loaded


def requests(count=20, room=24, **sampling):
    return [
        Request(f"r{i}", (user(WORDS[i % 5] * (1 + i % 3)),), Sampling(max_new_tokens=room, **sampling), derive_seed(0, i))
        for i in range(count)
    ]


def texts(completions):
    return {c.id: (c.text, c.completion_tokens, c.finish_reason) for c in completions}


def greedy_by_hand(loaded, messages, steps, stop):
    """No cache, no padding, no batch."""
    ids = render(loaded.tokenizer, messages)
    new = []
    for _ in range(steps):
        with torch.no_grad():
            new.append(int(loaded.model(torch.tensor([ids + new], device=loaded.device)).logits[0, -1].argmax()))
        if new[-1] in stop:
            return loaded.tokenizer.decode(new[:-1], skip_special_tokens=True), len(new), "stop"
    return loaded.tokenizer.decode(new, skip_special_tokens=True), len(new), "length"


def test_greedy_is_what_one_row_at_a_time_without_cache_gives(loaded):
    engine = TransformersEngine(loaded)
    asked = requests(temperature=0.0)
    got = texts(engine.generate(asked))
    assert got == {r.id: greedy_by_hand(loaded, r.messages, 24, engine._stop) for r in asked}


def test_text_depends_on_the_seed_not_on_the_batch_or_the_order(loaded):
    asked = requests(count=30)
    alone = texts(TransformersEngine(loaded, max_batch_tokens=1).generate(asked))
    together = texts(TransformersEngine(loaded).generate(asked))
    shuffled = texts(TransformersEngine(loaded, max_batch_tokens=500).generate(asked[::-1]))
    assert alone == together == shuffled
    assert {reason for _, _, reason in alone.values()} == {"stop", "length"}
    reseeded = texts(TransformersEngine(loaded).generate([replace(r, seed=r.seed + 1) for r in asked]))
    assert reseeded != alone


def test_rows_with_different_sampling_share_a_batch(loaded):
    engine = TransformersEngine(loaded)
    warm, cold = requests(count=5, top_p=0.8), requests(count=5, temperature=0.0, room=7)
    mixed = [replace(r, id=f"cold-{r.id}") for r in cold] + warm
    got = texts(engine.generate(mixed))
    assert {i: t for i, t in got.items() if not i.startswith("cold")} == texts(engine.generate(warm))
    assert {i[5:]: t for i, t in got.items() if i.startswith("cold")} == texts(engine.generate(cold))


def test_skip_runs_partly_had_batches_whole_and_wholly_had_ones_not(loaded, monkeypatch):
    """20 rows, a few in each batch: the batches that are run are those with a missing row, and with the same rows as before."""
    batches = []
    original = decode_module._Batch.__init__

    def spy(self, loaded, rows, stop):
        batches.append(sorted(row.id for row in rows))
        original(self, loaded, rows, stop)

    monkeypatch.setattr(decode_module._Batch, "__init__", spy)
    engine, asked = TransformersEngine(loaded, max_batch_tokens=250), requests()
    full = texts(engine.generate(asked))
    planned = list(batches)
    assert len(planned) > 3 and len(planned[1]) > 1
    had = {i for batch in planned for i in batch} - {planned[1][0], planned[2][0]}
    batches.clear()
    rest = texts(engine.generate(asked, skip=had))
    assert batches == [planned[1], planned[2]]
    assert rest == {i: full[i] for i in (planned[1][0], planned[2][0])}
    batches.clear()
    assert texts(engine.generate(asked, skip=set(full))) == {} and batches == []


def test_every_row_comes_once_in_waves_and_the_model_is_free_between(loaded):
    seen = []
    for completion in TransformersEngine(loaded).generate(requests()):
        assert torch.is_grad_enabled()
        seen.append(completion)
    assert sorted(c.id for c in seen) == sorted(r.id for r in requests())
    tokens = [c.completion_tokens for c in seen]
    assert tokens[0] < tokens[-1] == max(tokens)


def test_context(tmp_path):
    """Context 40. A prompt of 39 leaves room for 1 token, one of 40 for none."""
    loaded = load_model(Model(path=str(tiny_model_folder(tmp_path, context_length=40)), dtype="float32"))
    engine = TransformersEngine(loaded)
    header = engine.count_tokens([user("x")]) - 1
    fits, over = (Request(str(n), (user("x" * n),), Sampling(max_new_tokens=9), 1) for n in (39 - header, 40 - header))
    assert [engine.count_tokens(r.messages) for r in (fits, over)] == [39, 40]
    got = {c.id: c for c in engine.generate([over, fits])}
    assert got[fits.id].completion_tokens == 1 and got[fits.id].error is None
    assert got[over.id].error == "prompt of 40 tokens exceeds the context of 40"
    assert (got[over.id].text, got[over.id].finish_reason) == ("", "error")
    assert list(engine.generate([over], skip={over.id})) == []
    options = [OptionRequest(str(n), (user("x" * n),), ("A", "B")) for n in (40 - header, 41 - header)]
    scored = {s.id: s.error for s in engine.score_options(options)}
    assert list(scored.values()) == ["prompt of 41 tokens exceeds the context of 40", None]


def test_one_bad_row_is_recorded_and_the_others_are_what_they_were(loaded, monkeypatch):
    engine, asked = TransformersEngine(loaded), requests(count=7)
    good = texts(engine.generate(asked))
    bad = max(good, key=lambda i: good[i][1])
    assert good[bad][1] > 4
    original = decode_module._Batch._advance_one_step

    def out_of_memory(self):
        if self._step == 3 and any(row.id == bad for row in self.rows):
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(self)

    monkeypatch.setattr(decode_module._Batch, "_advance_one_step", out_of_memory)
    got = list(engine.generate(asked))
    assert len(got) == 7
    assert {c.id: c.error for c in got if c.error} == {bad: "OutOfMemoryError: CUDA out of memory"}
    assert {i: t for i, t in texts(got).items() if i != bad} == {i: t for i, t in good.items() if i != bad}


def test_logits_that_are_not_finite_are_an_error_of_the_row(loaded):
    with torch.no_grad():
        loaded.model.lm_head.weight.fill_(float("nan"))
    (completion,) = TransformersEngine(loaded).generate(requests(count=1))
    assert completion.finish_reason == "error" and "not finite" in completion.error
    (scores,) = TransformersEngine(loaded).score_options([OptionRequest("a", (user("x"),), ("A", "B"))])
    assert scores.logprobs == () and "not finite" in scores.error


def test_engines_share_a_base_and_leave_it_as_it_was(loaded, folder, tmp_path):
    asked = requests(count=4)
    bare = texts(TransformersEngine(loaded).generate(asked))
    add_adapter(loaded, tiny_adapter_folder(folder, tmp_path), "20-sft")
    loaded.model.double()
    base, sft = TransformersEngine(loaded), TransformersEngine(loaded, "20-sft")
    assert (base.name, sft.name) == ("tiny", "tiny+20-sft")
    assert base.template_hash == loaded.template_hash and base.context_length == 512
    adapted = texts(sft.generate(asked))
    assert adapted != bare and texts(base.generate(asked)) == bare
    interleaved = list(zip(base.generate(asked), sft.generate(asked), strict=True))
    assert texts(b for b, _ in interleaved) == bare and texts(s for _, s in interleaved) == adapted
    with pytest.raises(ValueError, match="has no adapter"):
        TransformersEngine(loaded, "40-dpo")


def test_an_answer_ends_without_its_closing_token_in_the_text(loaded):
    engine = TransformersEngine(loaded)
    done = [c for c in engine.generate(requests(count=30, room=60)) if c.finish_reason == "stop"]
    assert done and not any("<|im_end|>" in c.text for c in done)


def test_a_conversation_the_template_refuses_is_a_row_error(loaded):
    loaded.tokenizer.chat_template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}hello"
    bad = Request("bad", (assistant("x"),), Sampling(max_new_tokens=2), 0)
    errors = {c.id: c.error for c in TransformersEngine(loaded).generate([bad, *requests(count=1, room=2)])}
    assert errors == {"bad": "user first", "r0": None}
