"""SFT on a tiny model: what is written, what is dropped, and that a stopped run ends where an uninterrupted one does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.training import Lora, Sft
from rlaif_dpo.train import loop
from rlaif_dpo.train.data import take_census
from rlaif_dpo.train.sft import new_adapter, run_sft
from tests.train.conftest import LORA, sft_rows, written

Load = Callable[..., LoadedModel]
SETTINGS = Sft(batch_size=4, micro_batch_size=2, lr=5e-3, epochs=2, save_steps=2)
DROPOUT = Lora(r=4, alpha=8, dropout=0.1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=torch.arange(3, 20).unsqueeze(0)).logits


def test_sft_learns_the_completions_and_gives_the_base_back(load: Load, tmp_path: Path) -> None:
    loaded = load()
    base, before = loaded.model, logits(loaded)
    forward = base.forward
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    funnel = run_sft(written(tmp_path / "rows.jsonl", sft_rows(18)), loaded, LORA, settings, tmp_path, 0, Silent())
    assert funnel == {"rows": 18, "kept": 18}
    # 18 rows in batches of 4 are 5 steps an epoch, the last of 2 rows.
    curve = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in curve] == list(range(1, 11))
    assert {"loss", "lr", "grad_norm", "epoch", "tokens"} <= curve[0].keys()
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    assert all(row["tokens"] > 0 for row in curve)
    adapter = weights(tmp_path)
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert all(tensor.abs().sum() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    meta = json.loads((tmp_path / "adapter" / "rlaif_dpo.json").read_text())
    assert (meta["template_hash"], meta["seed"], meta["stage"]) == (loaded.template_hash, 0, "sft")
    assert "trl" in meta["versions"]
    assert not (tmp_path / "checkpoints").exists() and not list(tmp_path.glob(".*"))
    assert loaded.model is base and not base.training
    assert base.forward == forward and not base.is_gradient_checkpointing
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert torch.equal(logits(loaded), before)


def test_the_loss_is_over_the_completion_to_its_end(load: Load, tmp_path: Path) -> None:
    from rlaif_dpo.train.trl_adapter import sft_trainer

    loaded = load()
    census = take_census(sft_rows(3), ("completion",), loaded, 512)
    with loop.training(loaded, lambda base: new_adapter(base, LORA, 0)) as policy:
        trainer = sft_trainer(policy, census.examples, loaded, SETTINGS, tmp_path, 0)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    for ids, labels, example in zip(batch["input_ids"], batch["labels"], census.examples, strict=True):
        trained = labels != -100
        assert trained.nonzero()[0].item() == len(example.prompt)
        text = str(loaded.tokenizer.decode(ids[trained]))
        assert text == example.row["completion"][0]["content"] + "<|im_end|>\n"


def test_the_order_of_the_file_does_not_matter(load: Load, tmp_path: Path) -> None:
    rows = sft_rows(8)
    for name, order in (("a", rows), ("b", rows[::-1])):
        run_sft(written(tmp_path / name / "rows.jsonl", order), load(), LORA, SETTINGS, tmp_path / name, 0, Silent())
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_seed_makes_another_adapter(load: Load, tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        run_sft(written(folder / "rows.jsonl", sft_rows(8)), load(), LORA, SETTINGS, folder, seed, Silent())
    a, b = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert not any(torch.equal(a[name], b[name]) for name in a)


class StopAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_begin(self, args, state, control, **kwargs) -> None:  # type: ignore[no-untyped-def]
        if state.global_step == self.step:
            raise self.error


def stop_training_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """The next `fit` raises `error` when `step` steps are done, in the midst of the next."""
    original = loop.Curve.__init__

    def with_stop(self: loop.Curve, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        self.on_step_begin = StopAt(step, error).on_step_begin  # type: ignore[method-assign]

    monkeypatch.setattr(loop.Curve, "__init__", with_stop)


@pytest.fixture(scope="module")
def whole(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped: 10 steps, with dropout."""
    folder = tmp_path_factory.mktemp("whole")
    run_sft(written(folder / "rows.jsonl", sft_rows(18)), load(), DROPOUT, SETTINGS, folder, 0, Silent())
    return folder


@pytest.mark.parametrize("stop", [3, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 7, 8))])
def test_a_stopped_run_resumes_to_the_same_weights(
    stop: int, whole: Path, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 steps, a checkpoint every 2: stopped after 1 nothing is kept, after 3, 7, 8 (second epoch) it goes on from 2, 6, 8."""
    loaded, stopped = load(), tmp_path
    path = written(stopped / "rows.jsonl", sft_rows(18))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_training_at(patch, stop, KeyboardInterrupt())
        run_sft(path, loaded, DROPOUT, SETTINGS, stopped, 0, Silent())
    assert not (stopped / "adapter").exists()
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    kept = loop.last_checkpoint(stopped / "checkpoints")
    assert (kept.name if kept else None) == (None if stop < 2 else f"checkpoint-{stop - stop % 2}")
    run_sft(path, loaded, DROPOUT, SETTINGS, stopped, 0, Silent())
    expected, got = weights(whole), weights(stopped)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    curves = [[(row["step"], row["loss"], row["tokens"]) for row in read_jsonl(f / "metrics.jsonl")] for f in (whole, stopped)]
    assert curves[0] == curves[1]


def test_a_run_killed_before_its_adapter_was_written_only_writes_it(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "rows.jsonl", sft_rows(8))
    trained: dict[str, torch.Tensor] = {}

    def killed(policy: PeftModel, *args: object) -> None:
        trained.update({name: weight.clone() for name, weight in policy.state_dict().items() if ".default." in name})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rlaif_dpo.train.sft.save_adapter", killed)
        run_sft(path, load(), LORA, SETTINGS, tmp_path, 0, Silent())
    run_sft(path, load(), LORA, SETTINGS, tmp_path, 0, Silent())
    assert len(list(read_jsonl(tmp_path / "metrics.jsonl"))) == 4
    adapter = weights(tmp_path)
    assert len(trained) == len(adapter)
    assert all(torch.equal(weight, adapter[name.replace(".default.", ".")]) for name, weight in trained.items())


def test_a_half_written_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / "complete").touch()
    assert loop.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert loop.last_checkpoint(tmp_path / "none") is None


def test_checkpoints_of_other_work_are_not_continued(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.jsonl", sft_rows(18))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_training_at(patch, 5, KeyboardInterrupt())
        run_sft(path, load(), LORA, SETTINGS, tmp_path, 0, Silent())
    other = SETTINGS.model_copy(update={"lr": 1e-3, "epochs": 1})
    run_sft(path, load(), LORA, other, tmp_path, 0, Silent())
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert max(row["lr"] for row in read_jsonl(tmp_path / "metrics.jsonl")) <= 1e-3


def test_a_finished_run_returns_at_once(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.jsonl", sft_rows(8))
    first = run_sft(path, load(), LORA, SETTINGS, tmp_path, 0, Silent())
    monkeypatch.setattr("rlaif_dpo.train.sft.fit", lambda *args: pytest.fail("trained again"))
    assert run_sft(path, load(), LORA, SETTINGS, tmp_path, 0, Silent()) == first


def test_the_census_counts_what_is_too_long(load: Load, tmp_path: Path) -> None:
    rows = sft_rows(8)
    rows[3]["completion"] = [{"role": "assistant", "content": "word " * 60}]
    settings = SETTINGS.model_copy(update={"max_length": 60, "epochs": 1})
    funnel = run_sft(written(tmp_path / "rows.jsonl", rows), load(), LORA, settings, tmp_path, 0, Silent())
    assert funnel == {"rows": 8, "dropped: longer than max_length": 1, "kept": 7}
    census = json.loads((tmp_path / "census.json").read_text())
    assert census["dropped_ids"] == {"longer than max_length": ["q03"]}
    assert census["tokens"]["longest"] > 60 >= census["tokens"]["median"]


def test_nothing_to_train_on_is_said_in_one_line(load: Load, tmp_path: Path) -> None:
    path = written(tmp_path / "sft.jsonl", sft_rows(8))
    short = SETTINGS.model_copy(update={"max_length": 8})
    with pytest.raises(UserError, match=r"All 8 rows of sft.jsonl are longer than max_length \(8 tokens\); the shortest has \d+"):
        run_sft(path, load(), LORA, short, tmp_path, 0, Silent())
    with pytest.raises(UserError, match="no rows to train on in none.jsonl"):
        run_sft(tmp_path / "none.jsonl", load(), LORA, SETTINGS, tmp_path, 0, Silent())
    with pytest.raises(UserError, match='q_projj is no linear layer that takes an adapter; there are .* Did you mean "q_proj"'):
        run_sft(path, load(), Lora(target_modules=("q_projj",)), SETTINGS, tmp_path, 0, Silent())
    with pytest.raises(UserError, match="'.*norm' is the name of no linear layer; there are down_proj, gate_proj"):
        run_sft(path, load(), Lora(target_modules=".*norm"), SETTINGS, tmp_path, 0, Silent())


class Counted(Silent):
    def __init__(self) -> None:
        self.rows = self.tokens = self.total = self.done = 0

    def task(self, name, total, done=0):  # type: ignore[no-untyped-def]
        self.total, self.done = total, done
        counted = self

        class _Task:
            def __enter__(self):  # type: ignore[no-untyped-def]
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def advance(self, rows: int = 1, tokens: int = 0) -> None:
                counted.rows += rows
                counted.tokens += tokens

        return _Task()


def test_progress_counts_rows_and_tokens(load: Load, tmp_path: Path) -> None:
    """18 rows, 2 epochs: 36 rows; the tokens are those of the census."""
    progress, loaded = Counted(), load()
    run_sft(written(tmp_path / "rows.jsonl", sft_rows(18)), loaded, LORA, SETTINGS, tmp_path, 0, progress)
    assert (progress.total, progress.done, progress.rows) == (36, 0, 36)
    assert progress.tokens == 2 * sum(take_census(sft_rows(18), ("completion",), loaded, 512).lengths)
