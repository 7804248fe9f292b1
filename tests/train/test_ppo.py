"""PPO: four roles on one tiny base, resumed to the same weights, and, on the sandbox model, learning what it is rewarded for."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import pytest
import torch

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.models.adapters import adapter_names
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Ppo
from rlaif_dpo.train import ppo
from rlaif_dpo.train.baseline import Baseline
from rlaif_dpo.train.loop import read_head
from rlaif_dpo.train.ppo import initial_value_head, run_ppo, score_scale
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
SETTINGS = Ppo(
    updates=4,
    batch_size=8,
    minibatch_size=4,
    micro_batch_size=2,
    epochs=2,
    lr=2e-3,
    value_lr=2e-3,
    warmup=0.0,
    save_steps=2,
    max_new_tokens=6,
    baseline_samples=8,
    tripwires="warn",
)


def settings(**change: object) -> Ppo:
    return SETTINGS.model_copy(update=change)


def trained(load: Load, sft_adapter: Path, folder: Path, made: Ppo = SETTINGS, reward: Reward = letters, **more: object) -> None:
    loaded = load()
    run_ppo(PROMPTS, loaded, sft_adapter, reward, made, folder, 0, Silent(), reward_name="letters", **more)  # type: ignore[arg-type]
    assert adapter_names(loaded) == () and not getattr(loaded.model, "is_gradient_checkpointing", False)


def test_four_roles_share_one_base(load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path) -> None:
    """Looked at from inside the run, whenever the reward is asked."""
    loaded = load()
    own = {id(parameter) for parameter in loaded.model.parameters()}
    names: list[tuple[str, ...]] = []

    def reward(answers: Sequence[Answered]) -> list[float]:
        scores = model(answers)
        names.append(adapter_names(loaded))
        others = {n: p for n, p in loaded.model.named_parameters() if id(p) not in own}
        assert own <= {id(parameter) for parameter in loaded.model.parameters()}
        assert all("lora_" in name and p.dtype == torch.float32 for name, p in others.items())
        return scores

    run = tmp_path / "run"
    with left_as_it_was(loaded):
        model = RewardModel(loaded, reward_adapter)
        funnel = run_ppo(
            PROMPTS, loaded, sft_adapter, reward, SETTINGS, run, 0, Silent(), reward_name="rm", value_from=reward_adapter
        )
    assert funnel == {"prompts": 6, "kept": 6}
    assert len(names) == 5 and {name[:3] for name in names} == {("default", "ref", "ppo-value")}
    assert all(len(n) == 4 for n in names)
    rows, _ = check_files(run, loaded, sft_adapter)
    # Policy and reference start as one model: their log-probabilities agree to the last bit, then part.
    assert rows[0]["kl"] == 0.0 and rows[0]["reward"] == pytest.approx(rows[0]["score"] - rows[0]["no_eos"], abs=1e-5)
    assert rows[-1]["kl"] != 0.0


def test_the_value_function_starts_as_the_normalised_reward_model(load: Load, reward_adapter: Path) -> None:
    """Scores of mean .5 and deviation 2: V = (w.h - .5) / 2, so weights w / 2 and bias -.25. Without a reward model 0."""
    baseline = Baseline(8, score_mean=0.5, score_std=2.0, tokens=6.0, entropy=1.0, group=8, distinct=0.5, texts=())
    assert (score_scale(baseline, settings(reward_scale="std")), score_scale(baseline, SETTINGS)) == (2.0, 1.0)
    head = initial_value_head(load(), reward_adapter, baseline, 2.0)
    assert torch.equal(head.weight, read_head(reward_adapter) / 2) and head.bias.item() == -0.25
    head = initial_value_head(load(), reward_adapter, baseline, 1.0)
    assert torch.equal(head.weight, read_head(reward_adapter)) and head.bias.item() == -0.5
    head = initial_value_head(load(), None, baseline, 1.0)
    assert not head.weight.any() and head.bias.item() == 0.0


ADAPTIVE = settings(kl_target=0.01, kl_coef=0.1)


@pytest.fixture(scope="module")
def whole(load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder, loaded = tmp_path_factory.mktemp("whole"), load()
    run_ppo(
        PROMPTS, loaded, sft_adapter, RewardModel(loaded, reward_adapter), ADAPTIVE, folder, 0, Silent(), reward_name="rm",
        value_from=reward_adapter,
    )  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_stopped_run_resumes_to_the_same_weights(
    stop: int, whole: Path, load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path
) -> None:
    """An adaptive coefficient is part of the state."""
    loaded = load()

    def train(reward: Reward, folder: Path, progress: Progress) -> None:
        run_ppo(PROMPTS, loaded, sft_adapter, reward, ADAPTIVE, folder, 0, progress, reward_name="rm", value_from=reward_adapter)

    check_resumed(train, loaded, RewardModel(loaded, reward_adapter), whole, tmp_path, stop)
    assert len({row["kl_coef"] for row in read_jsonl(whole / "metrics.jsonl")}) > 1


@pytest.mark.slow
def test_micro_batches_and_recomputed_layers_change_only_the_order_of_sums(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """The first update's numbers with 2, 4 and 4 recomputed rows a pass. One epoch of one minibatch: a single gradient."""
    rows = []
    for name, change in (("two", {}), ("four", {"micro_batch_size": None}), ("again", {"gradient_checkpointing": True})):
        trained(load, sft_adapter, tmp_path / name, settings(updates=1, epochs=1, batch_size=4, **change))
        rows += list(read_jsonl(tmp_path / name / "metrics.jsonl"))
    assert rows[0]["grad_norm"] > 1e-3
    for other in rows[1:]:
        assert other == pytest.approx(rows[0], abs=1e-4)


@pytest.mark.slow
def test_minibatches_do_not_depend_on_how_they_are_cut(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """An update of 8 answers, minibatches of 4, 2 passes, with 1, 2 and 4 rows a forward pass: `micro_batch_size` is no part of
    the stage's key, so the weights may differ by rounding only. AdamW makes steps of lr out of any gradient, also of one near 0:
    .05 of the way that the weights went is allowed; minibatches of other answers differ by more (the control).
    """

    def cut(name: str, **change: object) -> torch.Tensor:
        trained(load, sft_adapter, tmp_path / name, settings(updates=1, **change))
        return torch.cat([tensor.flatten() for _, tensor in sorted(weights(tmp_path / name).items())])

    start = torch.cat([tensor.flatten() for _, tensor in sorted(weights(sft_adapter.parent).items())])
    whole = cut("four", micro_batch_size=None)
    way = (whole - start).norm()
    assert all((cut(f"{n}", micro_batch_size=n) - whole).norm() < 0.05 * way for n in (1, 2))
    assert (cut("control", minibatch_size=2, micro_batch_size=None) - whole).norm() > 0.05 * way


@pytest.mark.slow
def test_dropout_in_the_sft_adapter_does_not_make_the_ratio_noise(
    load: Load, sft_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter trained with dropout .5: the first ratios are 1. The control puts dropout back and is refused."""
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for file in sft_adapter.iterdir():
        (noisy / file.name).write_bytes(file.read_bytes())
    config = json.loads((noisy / "adapter_config.json").read_text()) | {"lora_dropout": 0.5}
    (noisy / "adapter_config.json").write_text(json.dumps(config))
    made = settings(updates=1, gradient_checkpointing=True)
    trained(load, noisy, tmp_path / "ppo", made)

    @contextmanager
    def with_dropout(model: torch.nn.Module, gradient_checkpointing: bool) -> Iterator[None]:
        model.train()
        yield

    monkeypatch.setattr(ppo, "without_dropout", with_dropout)
    with pytest.raises(RuntimeError, match=r"not the one that was sampled from: a log-ratio is .* \(should be 0\)"):
        trained(load, noisy, tmp_path / "control", made)


def test_a_policy_that_does_not_start_at_its_reference_is_refused(
    load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is swapped for another adapter; the SFT model itself passes in every other test."""
    original = ppo.add_adapter

    def swapped(loaded: LoadedModel, path: Path, name: str) -> None:
        original(loaded, reward_adapter if name == "ref" else path, name)

    monkeypatch.setattr(ppo, "add_adapter", swapped)
    loaded = load()
    with pytest.raises(RuntimeError, match="not its reference: a KL is"):
        run_ppo(PROMPTS, loaded, sft_adapter, letters, SETTINGS, tmp_path, 0, Silent(), reward_name="letters")
    assert adapter_names(loaded) == () and not (tmp_path / "adapter").exists()


def test_a_tripwire_stops_before_it_learns_from_what_tripped_it(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    made = settings(tripwires="stop")
    run_ppo(PROMPTS, load(), sft_adapter, letters, made, tmp_path, 0, Heard(), reward_name="letters")
    row, verdict = check_tripped(tmp_path, sft_adapter)
    assert "policy_loss" not in row
    assert said[-1] == verdict and any("answers do not end" in sentence for sentence in said)


@pytest.mark.slow
def test_a_base_in_4_bits_starts_at_its_reference(load: Load, sft_adapter: Path, reward_adapter: Path, tmp_path: Path) -> None:
    loaded = load(quantization="nf4", dtype="bfloat16")
    reward = RewardModel(loaded, reward_adapter)
    trained(lambda: loaded, sft_adapter, tmp_path, settings(updates=2), reward, value_from=reward_adapter)
    check_starts_at_its_reference(tmp_path)
    assert getattr(loaded.model, "is_loaded_in_4bit", False)


def test_answers_without_a_score_are_left_out_and_none_is_an_error(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    def half(answers: Sequence[Answered]) -> list[float]:
        return [math.nan if i % 2 else 1.0 for i, _ in enumerate(answers)]

    trained(load, sft_adapter, tmp_path / "half", settings(updates=1), half)
    (row,) = read_jsonl(tmp_path / "half" / "metrics.jsonl")
    assert row["no_score"] == 0.5
    with pytest.raises(UserError, match="None of 8 answers of the SFT model got a score"):
        trained(load, sft_adapter, tmp_path / "none", reward=lambda answers: [math.nan] * len(answers))
    with pytest.raises(UserError, match="the same score: set ppo.reward_scale: none"):
        trained(load, sft_adapter, tmp_path / "one", settings(reward_scale="std"), lambda answers: [1.0] * len(answers))


@pytest.mark.slow
def test_a_finished_run_returns_at_once_and_another_reward_is_other_work(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    made = settings(updates=1)

    def run(name: str, reward: Reward) -> dict[str, int]:
        return run_ppo(PROMPTS, load(), sft_adapter, reward, made, tmp_path, 0, Silent(), reward_name=name)

    first = run("letters", letters)
    assert run("letters", lambda answers: pytest.fail("asked again")) == first
    asked: list[int] = []
    run("other", lambda answers: asked.append(len(answers)) or letters(answers))  # type: ignore[func-returns-value]
    assert asked == [8, 8]


@pytest.mark.slow
def test_it_learns_what_it_is_rewarded_for(tmp_path: Path) -> None:
    """The sandbox model, an adapter of zeros, and a reward of 1 for an answer that acknowledges how the patient feels.

    About a third of the answers do at first. If nothing were learned, the mean of 64 answers at the end less that of 32 at the
    start would have a standard deviation of at most .5 sqrt(1/64 + 1/32) = .11; .3 is close to three of them. With 6 updates the
    rise was .78, .67 and .67 under the seeds 0, 1 and 2.
    """
    loaded = load_model(Model())
    adapter, folder = adapter_of_zeros(loaded, tmp_path / "sft"), tmp_path / "ppo"
    rows, acknowledges = patients()
    made = Ppo(
        updates=5,
        batch_size=32,
        minibatch_size=8,
        epochs=2,
        lr=2e-3,
        value_lr=2e-3,
        kl_coef=0.01,
        warmup=0.0,
        max_new_tokens=40,
        baseline_samples=32,
    )
    with left_as_it_was(loaded):
        run_ppo(rows[:64], loaded, adapter, acknowledges, made, folder, 0, Silent(), reward_name="acknowledges")
    curve = list(read_jsonl(folder / "metrics.jsonl"))
    assert fmean(row["score"] for row in curve[-2:]) - curve[0]["score"] > 0.3
    assert curve[0]["kl"] == 0.0 and 0.1 < curve[-1]["kl"] < 10
    health = json.loads((folder / "health.json").read_text())
    assert "The mean score rose by" in json.dumps(health) and health["status"] != "broken"
