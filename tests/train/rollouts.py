"""What the tests of PPO and of GRPO have in common: prompts, rewards, and what must be true of a run of either."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rlaif_dpo.files import Row, read_jsonl
from rlaif_dpo.messages import user
from rlaif_dpo.models.adapters import adapter_names, add_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.prompts import load_prompts
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import PromptSource
from rlaif_dpo.recipe.training import Lora
from rlaif_dpo.sandbox.truth import check
from rlaif_dpo.train.loop import last_checkpoint, save_adapter, training
from rlaif_dpo.train.reward import Answered
from rlaif_dpo.train.sft import new_adapter
from tests.train.test_sft import Counted, logits, weights

Load = Callable[..., LoadedModel]
Reward = Callable[[Sequence[Answered]], list[float]]

PROMPTS = [PromptRow(f"p{i}", (user(f"hello {i}"),)) for i in range(6)]


def letters(answers: Sequence[Answered]) -> list[float]:
    return [sum(c.isascii() for c in text) / max(len(text), 1) for _, text in answers]


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def left_as_it_was(loaded: LoadedModel) -> Iterator[None]:
    """Afterwards: the same object, not a bit of it changed, no adapter left."""
    base, before, answers = loaded.model, fingerprint(loaded.model), logits(loaded)
    yield
    assert loaded.model is base and fingerprint(base) == before and torch.equal(logits(loaded), answers)
    assert adapter_names(loaded) == () and not any(p.requires_grad for p in base.parameters())


def check_files(folder: Path, loaded: LoadedModel, sft_adapter: Path) -> tuple[list[Row], list[Row]]:
    """Of 4 updates of 8 answers that moved every tensor of the SFT adapter, and with it what the model says.

    Returns:
        The rows of the curve and the episodes.
    """
    rows, episodes = (list(read_jsonl(folder / f"{name}.jsonl")) for name in ("metrics", "episodes"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert [e["step"] for e in episodes] == [step for step in (1, 2, 3, 4) for _ in range(8)]
    for row in rows:
        assert sum(e["completion_tokens"] for e in episodes if e["step"] == row["step"]) == row["tokens"]
    assert json.loads((folder / "health.json").read_text())["baseline"]["answers"] == 8
    start, end = weights(sft_adapter.parent), weights(folder)
    assert start.keys() == end.keys() and all(not torch.equal(start[name], end[name]) for name in start)
    before = logits(loaded)
    add_adapter(loaded, folder / "adapter", "trained")
    assert not torch.equal(logits(loaded), before)
    return rows, episodes


def check_resumed(
    train: Callable[[Reward, Path, Progress], object],
    loaded: LoadedModel,
    reward: Reward,
    finished: Path,
    stopped: Path,
    stop: int,
) -> None:
    """The reward is asked for the baseline, then once an update; at its call `stop` it is interrupted, in update `stop` - 1 of 4,
    with a checkpoint every 2. Then `train` goes on in `stopped`, and comes to what is in `finished`.
    """
    calls = iter(range(1, 100))

    def interrupted(answers: Sequence[Answered]) -> list[float]:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return reward(answers)

    with pytest.raises(KeyboardInterrupt):
        train(interrupted, stopped, Silent())
    assert adapter_names(loaded) == () and not (stopped / "adapter").exists()
    kept = last_checkpoint(stopped / "checkpoints")
    assert (kept.name if kept else None) == (None if stop == 2 else "checkpoint-2")
    progress = Counted()
    train(reward, stopped, progress)
    assert (progress.total, progress.done + progress.rows) == (32, 32)
    check_same_weights(finished, stopped)
    for name in ("metrics.jsonl", "episodes.jsonl", "baseline.jsonl"):
        assert list(read_jsonl(finished / name)) == list(read_jsonl(stopped / name)), name
    assert (finished / "health.json").read_text() == (stopped / "health.json").read_text()


def check_same_weights(one: Path, other: Path) -> None:
    expected, got = weights(one), weights(other)
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)


def check_tripped(folder: Path, sft_adapter: Path) -> tuple[Row, str]:
    """The tiny model never ends its answers: no_eos is above .9 in update 1, so nothing is learned: the adapter is SFT's.

    Returns:
        The only row of the curve, and the verdict.
    """
    (row,) = read_jsonl(folder / "metrics.jsonl")
    assert row["step"] == 1 and row["no_eos"] > 0.9
    health = json.loads((folder / "health.json").read_text())
    assert health["status"] == "broken" and "a tripwire stopped the run in update 1" in health["verdict"]
    check_same_weights(sft_adapter.parent, folder)
    return row, str(health["verdict"])


def check_starts_at_its_reference(folder: Path) -> None:
    """Policy and reference are bit-equal adapters that see the same batches: KL is 0, not only small."""
    first, second = read_jsonl(folder / "metrics.jsonl")
    assert first["kl"] == 0.0 and second["kl"] != 0.0
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}


def patients() -> tuple[list[PromptRow], Reward]:
    """Ordinary prompts of the sandbox, and a reward of 1 for an answer that acknowledges how the patient feels."""
    rows = [row for row in load_prompts(PromptSource(), 0).rows if row.facts["kind"] == "ordinary" and len(row.messages) == 1]
    facts = {row.messages[0]["content"]: row.facts for row in rows}

    def acknowledges(answers: Sequence[Answered]) -> list[float]:
        return [float(check(facts[messages[0]["content"]], text).kept["empathy"]) for messages, text in answers]

    return rows, acknowledges


def adapter_of_zeros(loaded: LoadedModel, folder: Path) -> Path:
    with training(loaded, lambda model: new_adapter(model, Lora(r=8, alpha=16), 0)) as policy:
        save_adapter(policy, folder, {"stage": "sft"})
    return folder / "adapter"
