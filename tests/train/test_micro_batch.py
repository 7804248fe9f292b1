"""Memory that runs out: fewer rows at once, the same batch, the same weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_json, read_jsonl
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.pipeline.directory import create
from rlaif_dpo.pipeline.stage import Context
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import Recipe
from rlaif_dpo.recipe.training import Dpo, Grpo, Lora, Reward, Sft
from rlaif_dpo.train.data import take_census
from rlaif_dpo.train.dpo import run_dpo
from rlaif_dpo.train.grpo import run_grpo
from rlaif_dpo.train.micro_batch import MEMORY, in_micro_batches, trial_of
from rlaif_dpo.train.reward import run_reward
from rlaif_dpo.train.sft import run_sft
from tests.train.conftest import LORA, preference_rows, sft_rows, written
from tests.train.rollouts import PROMPTS, letters
from tests.train.test_sft import stop_training_at, weights

pytestmark = pytest.mark.slow

Load = Callable[..., LoadedModel]
SFT = Sft(batch_size=8, lr=1e-3, epochs=2, save_steps=2)
DPO = Dpo(batch_size=8, lr=1e-3, epochs=1, save_steps=2)
CLOSE = 2e-5
"""Adam divides a gradient by its own size, so the rounding of sums in another order comes out larger than it went in."""


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.events: list[dict[str, Any]] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def event(self, **facts: object) -> None:
        self.events.append(facts)


@contextmanager
def memory_for(loaded: LoadedModel, tokens: int) -> Iterator[list[int]]:
    """A device that holds batches of at most `tokens` tokens, padding too; gives the sizes (rows) that it refused."""
    refused: list[int] = []

    def check(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        (ids,) = arguments
        if ids.numel() > tokens:
            refused.append(len(ids))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = loaded.model.get_input_embeddings().register_forward_pre_hook(check)
    try:
        yield refused
    finally:
        handle.remove()


def distance(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")]


def longest(load: Load, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[int]:
    return sorted((e.length for e in take_census(rows, columns, load(), 512).examples), reverse=True)


@pytest.mark.parametrize("micro", [8, 1])
def test_sft_learns_the_same_with_any_number_of_rows_at_once(micro: int, load: Load, tmp_path: Path) -> None:
    """18 rows of different lengths in batches of 8: the last step of an epoch has 2. The mean is over the tokens of a step."""
    for name, size in (("parts", micro), ("two", 2)):
        settings = SFT.model_copy(update={"micro_batch_size": size})
        run_sft(written(tmp_path / name / "r.jsonl", sft_rows(18)), load(), LORA, settings, tmp_path / name, 0, Silent())
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    assert distance(tmp_path / "parts", tmp_path / "two") < CLOSE


@pytest.mark.parametrize("micro", [8, 1])
def test_dpo_learns_the_same_with_any_number_of_rows_at_once(micro: int, load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """30 pairs, 3 held out: the last step of an epoch has 3, in parts of 3, of 2 and 1, or of 1. The mean is over its pairs."""
    for name, size in (("parts", micro), ("two", 2)):
        settings, path = DPO.model_copy(update={"micro_batch_size": size}), tmp_path / name / "p.jsonl"
        run_dpo(written(path, preference_rows(30)), load(), sft_adapter, settings, tmp_path / name, 0, Silent())
    assert len(losses(tmp_path / "two")) == 4
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    assert distance(tmp_path / "parts", tmp_path / "two") < CLOSE


def test_sft_goes_on_with_fewer_rows_when_the_memory_runs_out(load: Load, tmp_path: Path) -> None:
    """Room for 3 of the longest rows: 8 and 4 at once are refused, 2 pass. The run ends as one with 2 from the start."""
    rows = sft_rows(18)
    room = 3 * longest(load, rows, ("completion",))[0]
    heard, loaded = Heard(), load()
    path = written(tmp_path / "halved" / "r.jsonl", rows)
    with memory_for(loaded, room) as refused:
        funnel = run_sft(path, loaded, LORA, SFT, tmp_path / "halved", 0, heard, event=heard.event)
    assert funnel == {"rows": 18, "kept": 18} and refused == [8, 4]
    assert [event["micro_batch_size"] for event in heard.events] == [4, 2]
    assert heard.events[-1] == {"micro_batch_size": 2, "accumulation": 4, "because": "the memory ran out with 4"}
    assert heard.said[0] == "SFT: 4 of 8 rows at once from here on: the memory ran out with 8."
    settings = SFT.model_copy(update={"micro_batch_size": 2})
    run_sft(written(tmp_path / "small" / "r.jsonl", rows), load(), LORA, settings, tmp_path / "small", 0, Silent())
    assert distance(tmp_path / "halved", tmp_path / "small") < CLOSE
    curves = [[(row["step"], row["tokens"]) for row in read_jsonl(tmp_path / n / "metrics.jsonl")] for n in ("halved", "small")]
    assert curves[0] == curves[1]


def test_in_the_midst_of_a_run_it_goes_on_from_the_last_checkpoint(load: Load, tmp_path: Path) -> None:
    """One row is longer than the others. When its turn comes, the steps before it are not done again."""
    rows = sft_rows(32)
    rows[5]["completion"] = [{"role": "assistant", "content": "yes" + " A" * 40}]
    one, next_one = longest(load, rows, ("completion",))[:2]
    settings = SFT.model_copy(update={"micro_batch_size": 4, "epochs": 1, "save_steps": 1})
    assert 4 * next_one < 3 * one
    heard, loaded = Heard(), load()
    with memory_for(loaded, 3 * one) as refused:
        run_sft(written(tmp_path / "halved" / "r.jsonl", rows), loaded, LORA, settings, tmp_path / "halved", 0, heard)
    assert refused == [4] and [row["step"] for row in read_jsonl(tmp_path / "halved" / "metrics.jsonl")] == [1, 2, 3, 4]
    assert heard.said[-1].startswith("SFT resumes after step ") and heard.said[-1].endswith(" of 4.")
    small = settings.model_copy(update={"micro_batch_size": 2})
    run_sft(written(tmp_path / "small" / "r.jsonl", rows), load(), LORA, small, tmp_path / "small", 0, Silent())
    assert distance(tmp_path / "halved", tmp_path / "small") < CLOSE


def test_dpo_starts_from_the_sft_adapter_again_and_keeps_its_reference(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """Two sequences a pair: 8 pairs at once are 16 rows. The reference is the SFT adapter also after a new start."""
    rows = preference_rows(30)
    room = 9 * longest(load, rows, ("chosen", "rejected"))[0]
    heard, loaded = Heard(), load()
    path = written(tmp_path / "halved" / "p.jsonl", rows)
    with memory_for(loaded, room) as refused:
        run_dpo(path, loaded, sft_adapter, DPO, tmp_path / "halved", 0, heard, event=heard.event)
    assert refused == [16] and heard.events == [
        {"micro_batch_size": 4, "accumulation": 2, "because": "the memory ran out with 8"}
    ]
    settings = DPO.model_copy(update={"micro_batch_size": 4})
    run_dpo(written(tmp_path / "small" / "p.jsonl", rows), load(), sft_adapter, settings, tmp_path / "small", 0, Silent())
    assert losses(tmp_path / "halved")[0] == pytest.approx(0.693147, abs=1e-4)
    assert distance(tmp_path / "halved", tmp_path / "small") < CLOSE


def test_a_reward_model_needs_fewer_rows_at_once(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    rows, heard, loaded = preference_rows(30), Heard(), load()
    settings = Reward(batch_size=8, lr=1e-3, epochs=1, save_steps=2)
    room = 9 * longest(load, rows, ("chosen", "rejected"))[0]
    path = written(tmp_path / "halved" / "p.jsonl", rows)
    with memory_for(loaded, room) as refused:
        run_reward(path, loaded, sft_adapter, settings, tmp_path / "halved", 0, heard, event=heard.event)
    assert refused == [16] and heard.events[0]["micro_batch_size"] == 4
    small = settings.model_copy(update={"micro_batch_size": 4})
    run_reward(written(tmp_path / "small" / "p.jsonl", rows), load(), sft_adapter, small, tmp_path / "small", 0, Silent())
    assert distance(tmp_path / "halved", tmp_path / "small") < CLOSE


@pytest.mark.parametrize("size", [None, "auto"])
def test_grpo_needs_fewer_answers_at_once(size: str | None, load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """Room for 7 of the answers with their prompts: the engine packs its batches by that, 8 at once are refused, 4 are learned
    from; the first pass of all is that of the baseline. The answers are those of a run with 4 from the start, to the last bit.
    """
    settings = Grpo(
        updates=2,
        batch_size=8,
        group_size=4,
        micro_batch_size=size,
        lr=2e-3,
        max_new_tokens=6,
        baseline_samples=8,
        tripwires="warn",
    )
    loaded, heard = load(), Heard()
    room = 7 * (len(render(loaded.tokenizer, PROMPTS[0].messages)) + 6)
    with memory_for(loaded, room) as refused:
        run_grpo(
            PROMPTS, loaded, sft_adapter, letters, settings, "grpo", tmp_path / "halved", 0, heard,
            reward_name="letters", max_batch_tokens=room, event=heard.event,
        )  # fmt: skip
    assert refused == [8]
    assert heard.events == [{"micro_batch_size": 4, "accumulation": 2, "because": "the memory ran out with 8"}]
    assert heard.said[0] == "GRPO: 4 of 8 rows at once from here on: the memory ran out with 8."
    small = settings.model_copy(update={"micro_batch_size": 4})
    run_grpo(
        PROMPTS, load(), sft_adapter, letters, small, "grpo", tmp_path / "small", 0, Silent(),
        reward_name="letters", max_batch_tokens=room,
    )  # fmt: skip
    assert distance(tmp_path / "halved", tmp_path / "small") == 0.0
    for name in ("baseline.jsonl", "episodes.jsonl", "metrics.jsonl"):
        assert list(read_jsonl(tmp_path / "halved" / name)) == list(read_jsonl(tmp_path / "small" / name)), name


def test_a_stage_writes_it_into_the_journal_of_its_run(load: Load, tmp_path: Path) -> None:
    """As the pipeline does it: the stage's own function, in a run directory."""
    loaded, recipe = load(), Recipe(name="x", lora=LORA, sft=SFT)
    run = create(tmp_path / "x")
    written(run.path / "10-revise" / "sft.jsonl", sft_rows(18))
    pool = SimpleNamespace(base_for_training=lambda: loaded)
    (stage,) = (stage for stage in stages_of(recipe) if stage.name == "20-sft")
    with memory_for(loaded, 3 * longest(load, sft_rows(18), ("completion",))[0]):
        stage.perform(Context(recipe, load_constitution("telehealth"), run, pool, Silent()))  # type: ignore[arg-type]
    events = [(row["event"], row["stage"], row["micro_batch_size"]) for row in read_jsonl(run.path / "events.jsonl")]
    assert events == [("micro-batch", "20-sft", 4), ("micro-batch", "20-sft", 2)]


def test_a_stopped_run_remembers_what_its_memory_holds(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, loaded = written(tmp_path / "r.jsonl", sft_rows(18)), load()
    room = 3 * longest(load, sft_rows(18), ("completion",))[0]
    with memory_for(loaded, room) as refused:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_training_at(patch, 3, KeyboardInterrupt())
            run_sft(path, loaded, LORA, SFT, tmp_path, 0, Silent())
        assert refused == [8, 4]
        known = read_json(tmp_path / MEMORY)
        assert (known["micro_batch_size"], known["accumulation"], known["because"]) == (2, 4, "the memory ran out with 4")
        run_sft(path, loaded, LORA, SFT, tmp_path, 0, Silent())
        assert refused == [8, 4]
    assert len(losses(tmp_path)) == 6


def test_other_work_tries_again(load: Load, tmp_path: Path) -> None:
    """Shorter rows may fit: what was found out is for these rows and settings."""
    loaded, room = load(), 3 * longest(load, sft_rows(18), ("completion",))[0]
    for seed in (0, 1):
        with memory_for(loaded, room) as refused:
            run_sft(written(tmp_path / "r.jsonl", sft_rows(18)), loaded, LORA, SFT, tmp_path, seed, Silent())
        assert refused == [8, 4]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_auto_finds_the_number_before_it_trains(dropout: float, load: Load, tmp_path: Path) -> None:
    """The trial has the longest rows, so the run itself is refused nothing; its weights are those of that number, bit for bit."""
    rows, lora = sft_rows(18), Lora(r=4, alpha=8, dropout=dropout)
    room = 3 * longest(load, rows, ("completion",))[0]
    auto, heard, loaded = SFT.model_copy(update={"micro_batch_size": "auto"}), Heard(), load()
    path = written(tmp_path / "auto" / "r.jsonl", rows)
    with memory_for(loaded, room) as refused:
        run_sft(path, loaded, lora, auto, tmp_path / "auto", 0, heard, event=heard.event)
    assert refused == [8, 4]
    assert heard.events == [{"micro_batch_size": 2, "accumulation": 4, "because": "found by trial on the longest rows"}]
    settings = SFT.model_copy(update={"micro_batch_size": 2})
    run_sft(written(tmp_path / "two" / "r.jsonl", rows), load(), lora, settings, tmp_path / "two", 0, Silent())
    assert distance(tmp_path / "auto", tmp_path / "two") == 0.0
    assert losses(tmp_path / "auto") == losses(tmp_path / "two")


def test_auto_for_dpo(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    rows = preference_rows(30)
    room = 5 * longest(load, rows, ("chosen", "rejected"))[0]
    auto, loaded = DPO.model_copy(update={"micro_batch_size": "auto"}), load()
    path = written(tmp_path / "auto" / "p.jsonl", rows)
    with memory_for(loaded, room) as refused:
        run_dpo(path, loaded, sft_adapter, auto, tmp_path / "auto", 0, Silent())
        assert refused == [16, 8]
        assert read_json(tmp_path / "auto" / MEMORY)["micro_batch_size"] == 2
    settings = DPO.model_copy(update={"micro_batch_size": 2})
    run_dpo(written(tmp_path / "two" / "p.jsonl", rows), load(), sft_adapter, settings, tmp_path / "two", 0, Silent())
    assert distance(tmp_path / "auto", tmp_path / "two") == 0.0


def test_auto_where_everything_fits_takes_the_whole_batch(load: Load, tmp_path: Path) -> None:
    auto = SFT.model_copy(update={"micro_batch_size": "auto", "epochs": 1})
    run_sft(written(tmp_path / "r.jsonl", sft_rows(10)), load(), LORA, auto, tmp_path, 0, Silent())
    assert read_json(tmp_path / MEMORY)["micro_batch_size"] == 8


def test_a_trial_is_two_steps_on_the_longest_rows(load: Load) -> None:
    examples = take_census(sft_rows(18), ("completion",), load(), 512).examples
    settings, rows = trial_of(SFT.model_copy(update={"micro_batch_size": 4}), examples)
    assert (settings.batch_size, settings.rows_at_once, settings.epochs) == (4, 4, 2)
    assert [row.length for row in rows] == sorted((e.length for e in examples), reverse=True)[:4]


def test_one_row_that_does_not_fit_ends_in_one_line(load: Load, tmp_path: Path) -> None:
    loaded = load()
    base = loaded.model
    path = written(tmp_path / "r.jsonl", sft_rows(8))
    with memory_for(loaded, 3), pytest.raises(UserError, match="SFT ran out of memory with one row at once: lower max_length"):
        run_sft(path, loaded, LORA, SFT, tmp_path, 0, Silent())
    assert loaded.model is base and not any(parameter.requires_grad for parameter in base.parameters())


def test_halves_divide_the_batch(tmp_path: Path) -> None:
    """12 rows: 12, 6, 3, 1. A RuntimeError of a CPU's allocator is one of memory, too; others are passed on."""
    tried: list[int] = []

    def train(settings: Sft) -> None:
        tried.append(settings.rows_at_once)
        if settings.rows_at_once > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    in_micro_batches(train, Sft(batch_size=12), tmp_path, "key", "SFT", Silent())
    assert tried == [12, 6, 3, 1]

    def broken(settings: Sft) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_micro_batches(broken, Sft(batch_size=12), tmp_path, "other", "SFT", Silent())
