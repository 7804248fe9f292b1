"""GRPO and RLOO: trl's loss on our answers, resumed to the same weights, and, on the sandbox model, learning what is rewarded."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.models.adapters import adapter_names
from rlaif_dpo.models.load import load_model
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Grpo
from rlaif_dpo.train.grpo import Method, run_grpo
from rlaif_dpo.train.reward import Answered, RewardModel
from tests.train.rollouts import (
    PROMPTS,
    Load,
    Reward,
    adapter_of_zeros,
    check_files,
    check_resumed,
    check_starts_at_its_reference,
    check_tripped,
    left_as_it_was,
    letters,
    patients,
)
from tests.train.test_sft import weights

# The tiny model's answers have no end: what would stop a real run only warns here.
SETTINGS = Grpo(
    updates=4,
    batch_size=8,
    group_size=4,
    micro_batch_size=4,
    lr=2e-3,
    warmup=0.0,
    save_steps=2,
    max_new_tokens=6,
    baseline_samples=8,
    tripwires="warn",
)
METHODS: tuple[Method, ...] = ("grpo", "rloo")


def settings(**change: object) -> Grpo:
    return SETTINGS.model_copy(update=change)


def trained(load: Load, sft_adapter: Path, folder: Path, made: Grpo, method: Method = "grpo", reward: Reward = letters) -> None:
    run_grpo(PROMPTS, load(), sft_adapter, reward, made, method, folder, 0, Silent(), reward_name="letters")


@pytest.mark.parametrize("method", METHODS)
def test_one_base_serves_policy_reference_and_reward(
    method: Method, load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path
) -> None:
    loaded = load()
    names: list[tuple[str, ...]] = []

    def reward(answers: Sequence[Answered]) -> list[float]:
        scores = model(answers)
        names.append(adapter_names(loaded))
        trainable = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
        assert trainable and all(".default." in name for name in trainable)
        return scores

    with left_as_it_was(loaded):
        model = RewardModel(loaded, reward_adapter)
        funnel = run_grpo(PROMPTS, loaded, sft_adapter, reward, SETTINGS, method, tmp_path, 0, Silent(), reward_name="rm")
    assert funnel == {"prompts": 6, "kept": 6}
    assert len(names) == 5 and all({"default", "ref"} < set(there) and len(there) == 3 for there in names[1:])
    rows, episodes = check_files(tmp_path, loaded, sft_adapter)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4) and rows[-1]["kl"] != rows[0]["kl"]
    assert {"score", "kl", "entropy", "zero_variance", "grad_norm", "loss", "lr", "tokens", "length_ratio"} <= rows[0].keys()
    groups = [{e["prompt_id"] for e in episodes[start : start + 4]} for start in range(0, 32, 4)]
    assert all(len(group) == 1 for group in groups)
    health = json.loads((tmp_path / "health.json").read_text())
    assert {"kl", "zero_variance", "boilerplate", "no_eos"} <= {found["name"] for found in health["checks"]}


@pytest.fixture(scope="module", params=METHODS)
def whole(
    request: pytest.FixtureRequest,
    load: Load,
    sft_adapter: Path,
    reward_adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Method, Path]:
    """A method, and a run of it that nobody stopped."""
    method, folder, loaded = request.param, tmp_path_factory.mktemp("whole"), load()
    model = RewardModel(loaded, reward_adapter)
    run_grpo(PROMPTS, loaded, sft_adapter, model, SETTINGS, method, folder, 0, Silent(), reward_name="rm")
    return method, folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_run_resumes_to_the_same_weights(
    stop: int, whole: tuple[Method, Path], load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path
) -> None:
    method, finished = whole
    loaded = load()

    def train(reward: Reward, folder: Path, progress: Progress) -> None:
        run_grpo(PROMPTS, loaded, sft_adapter, reward, SETTINGS, method, folder, 0, progress, reward_name="rm")

    check_resumed(train, loaded, RewardModel(loaded, reward_adapter), finished, tmp_path, stop)


@pytest.mark.slow
def test_micro_batches_change_only_the_order_of_sums(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """One update of 8 answers, 2, 4 and 8 a pass, and with recomputed layers: the same loss and the same gradient."""
    rows = []
    for name, change in (
        ("8", {"micro_batch_size": None}),
        ("4", {}),
        ("2", {"micro_batch_size": 2}),
        ("again", {"gradient_checkpointing": True}),
    ):
        trained(load, sft_adapter, tmp_path / name, settings(updates=1, **change))
        rows += list(read_jsonl(tmp_path / name / "metrics.jsonl"))
    assert rows[0]["grad_norm"] > 1e-3
    for other in rows[1:]:
        assert other == pytest.approx(rows[0], abs=1e-4)


@pytest.mark.slow
def test_the_policy_in_training_is_the_one_that_samples(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """Two runs that differ in `lr` alone: the answers of update 1 are the same, those of update 2, after one step, are not."""
    said = []
    for lr in (5e-2, 1e-12):
        trained(load, sft_adapter, tmp_path / f"{lr}", settings(updates=2, lr=lr))
        answers = list(read_jsonl(tmp_path / f"{lr}" / "episodes.jsonl"))
        said.append([[answer["text"] for answer in answers if answer["step"] == step] for step in (1, 2)])
        assert [row["lr"] for row in read_jsonl(tmp_path / f"{lr}" / "metrics.jsonl")] == pytest.approx([lr, lr / 2])
    fast, still = said
    assert fast[0] == still[0] and fast[1] != still[1]


def test_groups_that_earn_the_same_teach_nothing(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """One reward for all: every group is counted, the advantages are 0, and at the reference so is the gradient of KL."""
    trained(load, sft_adapter, tmp_path, settings(updates=1), reward=lambda answers: [1.0] * len(answers))
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["zero_variance"] == 1.0 and row["grad_norm"] == pytest.approx(0.0, abs=1e-5)
    health = json.loads((tmp_path / "health.json").read_text())
    (said,) = [found for found in health["checks"] if found["name"] == "zero_variance"]
    assert not said["ok"] and "100% of groups have answers that all earn the same" in said["sentence"]


def test_without_a_kl_coefficient_kl_is_looked_at_all_the_same(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    trained(load, sft_adapter, tmp_path, settings(kl_coef=0.0, updates=3))
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4) and abs(rows[-1]["kl"]) > 1e-3


@pytest.mark.slow
def test_kl_keeps_the_policy_at_the_sft_adapter_and_not_at_the_base(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """The reward is the same for all, so only KL moves anything; it is 0 at its reference. Were that the base, and not the SFT
    adapter, which lies well away from it, 4 updates at a coefficient of 10 would move the weights; the start itself is refused.
    """
    trained(load, sft_adapter, tmp_path, settings(kl_coef=10.0), reward=lambda answers: [1.0] * len(answers))
    start, end = weights(sft_adapter.parent), weights(tmp_path)
    assert max((start[name] - end[name]).abs().max().item() for name in start) < 0.01


def test_a_policy_that_does_not_start_at_its_reference_is_refused(
    load: Load, sft_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif_dpo.train import trl_adapter

    def moved(policy: torch.nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B.default" in name:
                    parameter.mul_(2.0)

    monkeypatch.setattr(trl_adapter, "_start_at_reference", moved)
    with pytest.raises(RuntimeError, match="GRPO does not start at its reference: a log-ratio is"):
        trained(load, sft_adapter, tmp_path, SETTINGS)
    assert not (tmp_path / "adapter").exists()


def test_a_tripwire_stops_before_it_learns_from_what_tripped_it(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    trained(load, sft_adapter, tmp_path, settings(tripwires="stop"))
    row, _ = check_tripped(tmp_path, sft_adapter)
    assert "loss" not in row


@pytest.mark.slow
def test_a_base_in_4_bits_starts_at_its_reference(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    trained(lambda: load(quantization="nf4", dtype="bfloat16"), sft_adapter, tmp_path, settings(updates=2))
    check_starts_at_its_reference(tmp_path)


def test_answers_without_a_score_are_left_out_and_none_is_an_error(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """The first two answers of each group of four get none: half of all; the other two still differ."""

    def half(answers: Sequence[Answered]) -> list[float]:
        return [math.nan if i % 4 < 2 else score for i, score in enumerate(letters(answers))]

    trained(load, sft_adapter, tmp_path / "half", settings(updates=1), reward=half)
    (row,) = read_jsonl(tmp_path / "half" / "metrics.jsonl")
    assert row["no_score"] == 0.5 and row["zero_variance"] < 1.0 and math.isfinite(row["loss"])
    with pytest.raises(UserError, match="None of 8 answers of the SFT model got a score"):
        trained(load, sft_adapter, tmp_path / "none", SETTINGS, reward=lambda answers: [math.nan] * len(answers))


@pytest.mark.slow
def test_a_finished_run_returns_at_once_and_another_method_is_other_work(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    made = settings(updates=1)
    trained(load, sft_adapter, tmp_path, made)
    trained(load, sft_adapter, tmp_path, made, reward=lambda answers: pytest.fail("asked again"))
    asked: list[int] = []
    trained(load, sft_adapter, tmp_path, made, "rloo", lambda answers: asked.append(len(answers)) or letters(answers))
    assert asked == [8, 8]


def chance(answers: Sequence[Answered]) -> list[float]:
    """A number from 0 to 1 that is drawn by the answer's text: the same text always earns the same."""
    return [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 for _, text in answers]


@pytest.mark.slow
def test_it_learns_what_it_is_rewarded_for_and_nothing_of_a_random_reward(tmp_path: Path) -> None:
    """The sandbox model, an adapter of zeros, and a reward of 1 for an answer that acknowledges how the patient feels; then, as
    the control, the same with rewards that mean nothing.

    About a third of the answers acknowledge at first. If nothing were learned, the share among 64 answers at the end less that
    among 64 of the baseline would have a standard deviation of at most .5 sqrt(2/64) = .09: .3 is more than three of them. Under
    seed 0 the rise was .17, .42, .67 and .55 in the updates 3 to 6. An update is one step of Adam: with an lr of 2e-3 six of them
    came to .08.
    """
    loaded = load_model(Model())
    adapter = adapter_of_zeros(loaded, tmp_path / "sft")
    rows, acknowledges = patients()
    made = Grpo(
        updates=6,
        batch_size=32,
        group_size=8,
        lr=1e-2,
        schedule="constant",
        kl_coef=0.01,
        warmup=0.0,
        max_new_tokens=40,
        baseline_samples=64,
    )
    found = {}
    for name, reward in (("acknowledges", acknowledges), ("chance", chance)):
        folder = tmp_path / name
        run_grpo(rows[:64], loaded, adapter, reward, made, "grpo", folder, 0, Silent(), reward_name=name)
        message = {row.id: row.messages for row in rows}
        shares = []
        for file, last in (("baseline", 0), ("episodes", made.updates - 1)):
            answers = [(message[e["prompt_id"]], e["text"]) for e in read_jsonl(folder / f"{file}.jsonl") if e["step"] >= last]
            shares.append(fmean(acknowledges(answers)))
        found[name] = shares[1] - shares[0]
    assert found["acknowledges"] > 0.3
    assert abs(found["chance"]) < 0.3
