"""Answers of a policy that learns from pairs, looked at while it trains: on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.judges.base import Criterion
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.recipe.training import Dpo, Looks
from rlaif_dpo.train.dpo import run_dpo
from rlaif_dpo.train.held_out import HeldOut
from tests.train.conftest import preference_rows, written
from tests.train.test_ppo import PROMPTS
from tests.train.test_sft import stop_training_at, weights

Load = Callable[..., LoadedModel]
# The tiny model's answers are noise: what would stop a real run only warns, but where a test is about stopping.
LOOKS = Looks(times=2, answers=8, max_new_tokens=6, tripwires="warn")
SETTINGS = Dpo(batch_size=8, micro_batch_size=4, lr=2e-3, epochs=2, save_steps=2, looks=LOOKS)


def looked(**change: object) -> Dpo:
    return SETTINGS.model_copy(update={"looks": LOOKS.model_copy(update=change)})


def trained(load: Load, sft_adapter: Path, folder: Path, settings: Dpo = SETTINGS, held_out: HeldOut | None = None) -> None:
    path = written(folder / "p.jsonl", preference_rows(30))
    run_dpo(path, load(), sft_adapter, settings, folder, 0, Silent(), prompts=PROMPTS, held_out=held_out)


@pytest.fixture(scope="module")
def whole(load: Load, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 pairs in 4 steps an epoch, 8 in all, looked at after steps 4 and 8."""
    folder = tmp_path_factory.mktemp("looked")
    trained(load, sft_adapter, folder)
    return folder


def test_answers_are_looked_at_and_the_verdict_says_what_they_show(whole: Path) -> None:
    first, last = read_jsonl(whole / "looks.jsonl")
    assert (first["step"], last["step"]) == (4, 8)
    assert first["stopped"] is None
    # The policy began as the SFT model, and 8 steps later is another.
    assert abs(last["kl"]) > 1e-3 and last["entropy"] > 0
    assert {"entropy_ratio", "length_ratio", "distinct_ratio", "boilerplate", "chosen_drift"} <= last.keys()
    curve = [row["drift/chosen"] for row in read_jsonl(whole / "metrics.jsonl")]
    assert first["chosen_drift"] == pytest.approx(sum(curve[:3]) / 3) and curve[0] == pytest.approx(0.0, abs=1e-5)
    answers = list(read_jsonl(whole / "episodes.jsonl"))
    assert [row["step"] for row in answers] == [4] * 8 + [8] * 8
    # beta times the log-ratio of each answer is what it earns, and the mean of the log-ratios is KL.
    assert sum(row["score"] for row in answers[8:]) / 8 == pytest.approx(SETTINGS.beta * last["kl"])
    prompts = {name: [row["prompt_id"] for row in read_jsonl(whole / f"{name}.jsonl")] for name in ("baseline", "episodes")}
    assert prompts["baseline"] * 2 == prompts["episodes"]
    checks = {check["name"]: check for check in json.loads((whole / "health.json").read_text())["checks"]}
    assert checks["kl"]["value"] == last["kl"] and {"boilerplate", "entropy_ratio", "margin", "chosen drift"} <= checks.keys()


def test_looking_changes_nothing_that_is_learned(whole: Path, load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    trained(load, sft_adapter, tmp_path, looked(times=0))
    assert not (tmp_path / "looks.jsonl").exists()
    expected, got = weights(tmp_path), weights(whole)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_tripwire_ends_the_training(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """A large lr, and no KL at all is allowed: the first look stops it, after 4 steps of 8. The control goes on."""
    far = {"lr": 5e-2}
    trained(load, sft_adapter, tmp_path / "warned", looked(max_kl=1e-9).model_copy(update=far))
    assert [row["step"] for row in read_jsonl(tmp_path / "warned" / "looks.jsonl")] == [4, 8]
    trained(load, sft_adapter, tmp_path, looked(tripwires="stop", max_kl=1e-9).model_copy(update=far))
    (row,) = read_jsonl(tmp_path / "looks.jsonl")
    assert len(list(read_jsonl(tmp_path / "metrics.jsonl"))) == 4 and "nats from the reference" in row["stopped"]
    health = json.loads((tmp_path / "health.json").read_text())
    assert health["status"] == "broken" and "a tripwire stopped it in step 4" in json.dumps(health)
    assert (tmp_path / "adapter").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 7])
def test_a_stopped_run_resumes_to_the_same_looks(
    stop: int, whole: Path, load: Load, sft_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_training_at(patch, stop, KeyboardInterrupt())
        trained(load, sft_adapter, tmp_path)
    trained(load, sft_adapter, tmp_path)
    expected, got = weights(whole), weights(tmp_path)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    for name in ("looks.jsonl", "episodes.jsonl", "baseline.jsonl", "metrics.jsonl"):
        assert list(read_jsonl(whole / name)) == list(read_jsonl(tmp_path / name)), name


def test_a_held_out_judge_sees_the_implicit_reward(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """A judge that never minds: p = .5, so nothing is said of agreement; what each answer gains over the reference is."""
    judge = PairwiseJudge(ScriptedEngine(choose=lambda request: [-0.7, -0.7]), JudgeSettings())
    known = {prompt.id: prompt for prompt in PROMPTS}
    criteria = {id: (Criterion("honest", "Which is more honest?"),) for id in known}
    held_out = HeldOut(judge, known, criteria, dict.fromkeys(known, "yes, it is"), 8, tmp_path / "held_out.jsonl")
    trained(load, sft_adapter, tmp_path, held_out=held_out)
    rows = list(read_jsonl(tmp_path / "held_out.jsonl"))
    assert [row["step"] for row in rows] == [4] * 8 + [8] * 8
    assert all(row["p"] == pytest.approx(0.5) for row in rows) and len({row["gain"] for row in rows}) > 8
    assert all("held_out" not in row for row in read_jsonl(tmp_path / "looks.jsonl"))
