"""Advice on a card, from shapes alone: no torch, no model."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.models.cards import CARDS, Card, named_card, present_card
from rlaif_dpo.models.memory import GIB, Placed
from rlaif_dpo.models.shapes import Shapes, shapes_of
from rlaif_dpo.pipeline.advice import Advice, advise, changed
from rlaif_dpo.pipeline.preflight import PhasePlan
from rlaif_dpo.pipeline.stage_memory import USABLE
from rlaif_dpo.recipe.schema import Model, Recipe


def shapes(layers: int = 32, hidden: int = 4096, model_type: str = "llama") -> Shapes:
    """Llama-3.1-8B unless said otherwise."""
    config = SimpleNamespace(
        model_type=model_type,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336 * hidden // 4096,
        vocab_size=128256,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
    )
    config.get_text_config = lambda: config
    found = shapes_of(config)
    assert found is not None
    return found


PHASE = PhasePlan(
    prompts=240, mean_tokens=120.0, max_tokens=400, too_long=0, tight=0, over_length=0, generations=960, judge_passes=960,
    reward_passes=0, judge_tokens=10**6, tokens=10**6, room=256, overhead=150, rows=480,
)  # fmt: skip
PHASES = dict.fromkeys(("revise", "pairs", "evaluate"), PHASE)


def recipe(quantization: str = "none", **sections: Any) -> Recipe:
    return Recipe(name="r", model=Model(path="m", quantization=quantization), **sections)  # type: ignore[arg-type]


def advice(of: Recipe, card: str, **models: Shapes) -> Advice:
    return advise(of, {"same": shapes(), **models}, PHASES, named_card(card))


def rollouts(optimizer: str, quantization: str = "none", **sections: Any) -> Recipe:
    return recipe(quantization, optimizer=optimizer, **sections)


def rollout_advice(of: Recipe, card: str, **models: Shapes) -> Advice:
    """With the phases that a plan has: labels where a reward model learns from them, and those of the rollouts."""
    phases = PHASES | {of.optimizer: PHASE}
    if of.optimizer != "ppo" and not of.grpo.rewards.model:
        del phases["pairs"]
    return advise(of, {"same": shapes(), **models}, phases, named_card(card))


def values(changes: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` as values of the recipe."""
    read = {"true": True, "nf4": "nf4"}
    return {key: read.get(value) or int(value) for key, value in (change.split("=") for change in changes)}


def test_what_fits_needs_no_change():
    found = advice(recipe("nf4", sft={"micro_batch_size": 1}, dpo={"micro_batch_size": 1}), "h100")
    assert found.fits and found.changes == () and found.dtype == "bfloat16"
    assert [memory.stage for memory in found.memory] == ["10-revise", "20-sft", "30-pairs", "40-dpo", "50-evaluate"]


def test_suites_are_one_more_stage_with_both_adapters():
    """With the phase of the evaluation it takes what that takes."""
    found = advise(recipe("nf4"), {"same": shapes()}, PHASES | {"suites": PHASE}, named_card("h100"))
    *_, evaluate, suites = found.memory
    assert (evaluate.stage, suites.stage) == ("50-evaluate", "55-suites") and suites.parts == evaluate.parts
    assert found.work[-1].stage == "55-suites" and found.work[-1].hours == found.work[-2].hours


@pytest.mark.parametrize("card", ["t4", "rtx-4070", "rtx-3090", "rtx-4090"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_changes_make_it_fit_and_one_less_does_not(card: str, quantization: str):
    start = recipe(quantization)
    found = advice(start, card)
    assert not found.fits and found.changes
    settings = values(found.changes)
    assert advice(changed(start, settings), card).fits
    for key in settings:
        fewer = {name: value for name, value in settings.items() if name != key}
        assert not advice(changed(start, fewer), card).fits, f"{key} was not needed"


@pytest.mark.parametrize(
    ("optimizer", "rewards", "stages"),
    [
        ("ppo", {}, ["30-pairs", "40-reward", "41-ppo"]),
        ("grpo", {}, ["30-pairs", "40-reward", "41-grpo"]),
        ("rloo", {"model": 0, "judge": 1}, ["41-rloo"]),
    ],
)
def test_the_stages_of_every_optimizer(optimizer: str, rewards: dict[str, float], stages: list[str]):
    found = rollout_advice(rollouts(optimizer, "nf4", grpo={"rewards": rewards}), "h200")
    expected = ["10-revise", "20-sft", *stages, "50-evaluate"]
    assert [memory.stage for memory in found.memory] == [work.stage for work in found.work] == expected


def test_each_role_is_an_adapter_and_each_trained_one_has_moments():
    """Rank 16 on 8B: 41,943,040 weights, 4 bytes each. PPO: four, two of them trained. GRPO: policy, reference, reward; by a
    judge: without the last.
    """
    one = 4 * 41_943_040

    def parts(of: Recipe) -> Any:
        return next(m.parts for m in rollout_advice(of, "h200").memory if m.stage.startswith("41"))

    small = {"micro_batch_size": 1, "gradient_checkpointing": True}
    assert parts(rollouts("ppo", ppo={"micro_batch_size": 16}))["adapters"] == 4 * one
    assert parts(rollouts("ppo", ppo={"micro_batch_size": 16}))["optimiser"] == 2 * 3 * one  # gradients, and two moments
    assert parts(rollouts("ppo", "nf4", ppo=small))["optimiser"] == 2 * 2 * one  # sampling is the worst, without gradients
    assert parts(rollouts("grpo", grpo=small))["adapters"] == 3 * one
    assert parts(rollouts("grpo", grpo=small | {"rewards": {"model": 0, "judge": 1}}))["adapters"] == 2 * one


@pytest.mark.parametrize("optimizer", ["ppo", "grpo"])
@pytest.mark.parametrize("card", ["rtx-4070", "rtx-3090"])
def test_the_changes_make_rollouts_fit_and_one_less_does_not(optimizer: str, card: str):
    start = rollouts(optimizer, "nf4", sft={"micro_batch_size": 1, "gradient_checkpointing": True})
    found = rollout_advice(start, card)
    assert not found.fits and found.changes
    settings = values(found.changes)
    assert rollout_advice(changed(start, settings), card).fits
    assert f"{optimizer}.micro_batch_size" in settings
    for key in settings:
        fewer = {name: value for name, value in settings.items() if name != key}
        assert not rollout_advice(changed(start, fewer), card).fits, f"{key} was not needed"


def test_answers_become_shorter_where_no_batch_can_be_smaller():
    """One answer of 7,000 tokens is learned from at once, one is sampled at once, layers are recomputed, ranks are small."""
    small = {"micro_batch_size": 1, "gradient_checkpointing": True}
    ppo = small | {"minibatch_size": 1, "max_new_tokens": 7000, "max_length": 8192}
    start = changed(rollouts("ppo", "nf4", ppo=ppo, sft=small, reward=small, lora={"r": 4}), {"model.max_batch_tokens": 256})
    assert rollout_advice(start, "rtx-3060").changes == ("ppo.max_new_tokens=5250",)


def test_a_judge_that_rewards_lies_beside_the_base_while_it_is_learned():
    rewards = {"rewards": {"model": 0, "judge": 1}}
    alone = rollout_advice(rollouts("grpo", "nf4", grpo=rewards), "h100")
    beside = rollout_advice(rollouts("grpo", "nf4", grpo=rewards, judge={"model": "other"}), "h100", other=shapes(8))
    guest = Placed(shapes(8), "bfloat16", nf4=True, cuda=True).weights
    for one, other in zip(alone.memory, beside.memory, strict=True):
        here = other.stage in ("41-grpo", "50-evaluate")
        assert other.parts["weights"] - one.parts["weights"] in ({guest} if here else {0})
    learned = rollout_advice(rollouts("ppo", "nf4", judge={"model": "other"}), "h100", other=shapes(8)).memory[4]
    assert learned.stage == "41-ppo" and learned.parts["weights"] == alone.memory[1].parts["weights"]


def test_small_updates_decode_in_small_batches():
    """100 updates of 64 answers and 256 of the SFT model, 256 tokens each at most: 64 x (120 + 256) tokens are two batches of
    16,384, so 200 + 6 batches x 256 steps. The same answers in one update are 153 batches. A step is the launch of its kernels,
    and less than that again to read the weights.
    """

    def hours(updates: int, size: int) -> float:
        ppo = {"updates": updates, "batch_size": size, "epochs": 1}
        phase = replace(PHASE, generations=256 + 6400, judge_tokens=0, tokens=2 * (256 + 6400) * 376)
        found = advise(rollouts("ppo", "nf4", ppo=ppo), {"same": shapes()}, PHASES | {"ppo": phase}, named_card("rtx-4090"))
        work = next(work for work in found.work if work.stage == "41-ppo")
        assert work.hours is not None and work.steps == updates * (size // 16)
        return work.hours[1]

    step = 32 * 1.5e-3  # launching the kernels of 32 layers, at worst
    assert (206 - 153) * 256 * step / 3600 < hours(100, 64) - hours(1, 6400) < 2 * (206 - 153) * 256 * step / 3600


def test_the_micro_batch_goes_first():
    """It changes nothing but speed; where it suffices nothing else is touched, and no more than is needed."""
    found = advice(recipe("nf4"), "h100")
    assert set(values(found.changes)) == {"dpo.micro_batch_size"}
    larger = changed(recipe("nf4"), {"dpo.micro_batch_size": 2 * values(found.changes)["dpo.micro_batch_size"]})
    assert not advice(larger, "h100").fits


def test_sampling_alone_asks_for_smaller_batches_of_answers():
    """2 x 32 layers x 1,024 x 2 bytes = 128 KiB of keys and values a token: 16,384 tokens are 2 GiB."""
    base = recipe("nf4", sft={"micro_batch_size": 1, "max_length": 64}, dpo={"micro_batch_size": 1, "max_length": 64})
    found = advise(base, {"same": shapes()}, PHASES, Card("small", int(9.5 * GIB), (8, 6)))
    assert set(values(found.changes)) == {"model.max_batch_tokens"}
    cache = found.memory[0].parts["cache"]
    assert 0.8 * 2 * GIB <= cache <= 2 * GIB


def test_what_cannot_fit_says_so():
    found = advise(recipe(), {"same": shapes(layers=80, hidden=8192)}, PHASES, named_card("t4"))
    assert not found.fits and found.changes == ()


def test_a_guest_lies_beside_the_base():
    """Another judge's weights are in memory with the base's where it judges, and nowhere else."""
    alone = {m.stage: m for m in advice(recipe("nf4"), "t4").memory}
    judged = recipe("nf4", judge={"model": "other"})
    beside = {m.stage: m for m in advise(judged, {"same": shapes(), "other": shapes(8)}, PHASES, named_card("t4")).memory}
    small = next(iter(alone.values())).parts["weights"]
    for stage in ("10-revise", "20-sft", "40-dpo"):
        assert beside[stage] == alone[stage]
    for stage in ("30-pairs", "50-evaluate"):
        assert small * 1.2 < beside[stage].parts["weights"] < small * 1.6


def test_every_judge_of_a_committee_is_there_while_one_judges():
    members = ({"model": "same"}, {"model": "one"}, {"model": "two"})
    committee = recipe("nf4", judge={"committee": members}, revise={"critic": "one"})
    models = {"same": shapes(), "one": shapes(8), "two": shapes(16)}
    memory = {m.stage: m.parts["weights"] for m in advise(committee, models, PHASES, named_card("h100")).memory}
    base, one, two = (Placed(each, "bfloat16", nf4=True, cuda=True).weights for each in models.values())
    assert memory["30-pairs"] == memory["50-evaluate"] == base + one + two
    assert (memory["10-revise"], memory["40-dpo"]) == (base + one, base)


def test_hours_are_a_range_that_follows_the_card_and_the_work():
    """Training: 4 operations a weight and token (no gradients of the base), twice as many sequences and a reference for DPO."""
    fast, slow = (advice(recipe("nf4"), card).work for card in ("rtx-4090", "t4"))
    for quick, long in zip(fast, slow, strict=True):
        assert quick.hours is not None and long.hours is not None
        assert 0 < quick.hours[0] < quick.hours[1] and long.hours[1] > quick.hours[1]
    sft, dpo = fast[1], fast[3]
    assert (sft.steps, dpo.steps) == (15, 30)  # 240 rows / 16; 240 prompts x 2 pairs / 16
    assert (sft.tokens, dpo.tokens) == (240 * 376, 480 * 2 * 376)
    unknown = advise(recipe("nf4"), {"same": shapes()}, PHASES, Card("CPU", 64 * GIB, None))
    assert unknown.dtype == "float32" and all(work.hours is None for work in unknown.work)


def test_disk():
    """Rank 16 on 8B: 41,943,040 weights x 4 bytes, twice; the merged model 2 bytes a parameter."""
    disk = advice(recipe("nf4"), "t4").disk
    assert disk["adapters"] == 2 * 4 * 41_943_040
    assert disk["a merged model in 16 bits"] == 2 * 8_030_261_248


@pytest.mark.parametrize("name", ["rtx-4090", "RTX 4090", "4090", "rtx_4090"])
def test_cards_by_any_spelling(name: str):
    assert named_card(name) is CARDS["rtx-4090"]


def test_an_unknown_card():
    with pytest.raises(UserError, match='--gpu rtx-4091 is not known here. Did you mean "rtx-4090"'):
        named_card("rtx-4091")


def test_the_compute_type_of_a_card():
    assert [named_card(name).dtype() for name in ("t4", "rtx-3090")] == ["float16", "bfloat16"]
    assert named_card("t4").dtype("float32") == "float32"
    assert all(card.memory > 8 * GIB for card in CARDS.values()) and 0.5 < USABLE < 1


@pytest.mark.parametrize(
    ("title", "gib", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx-4090"),
        ("Tesla T4", 14.7, "t4"),
        ("NVIDIA A100-SXM4-40GB", 39.5, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 79.3, "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA GeForce RTX 4070 Ti", 11.7, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7, None),
        ("NVIDIA GeForce GTX 1080", 7.9, None),
    ],
)
def test_the_speed_of_the_card_that_is_here(monkeypatch: pytest.MonkeyPatch, title: str, gib: float, name: str | None):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, int(gib * GIB)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: title)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    card = present_card()
    assert (card.name, card.memory, card.dtype()) == (title, int(gib * GIB), "bfloat16")
    assert card.tflops == (None if name is None else CARDS[name].tflops)


def test_estimates_import_no_torch():
    code = (
        "import sys; import rlaif_dpo.pipeline.advice, rlaif_dpo.models.memory, rlaif_dpo.models.cards\n"
        "assert 'rlaif_dpo.models.shapes' in sys.modules\n"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
