"""DPO on a tiny model: from the SFT adapter, with it as the reference, one adapter out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl, write_json
from rlaif_dpo.models.adapters import adapter_names, add_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.training import Dpo, Sft
from rlaif_dpo.train import loop
from rlaif_dpo.train.data import hold_out, take_census
from rlaif_dpo.train.dpo import run_dpo
from rlaif_dpo.train.sft import run_sft
from tests.train.conftest import LORA, preference_rows, sft_rows, written
from tests.train.test_sft import logits, stop_training_at, weights

Load = Callable[..., LoadedModel]
SETTINGS = Dpo(batch_size=8, micro_batch_size=4, lr=2e-3, epochs=3, save_steps=3)


def test_dpo_learns_from_the_sft_adapter(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """30 pairs with a prompt each: 3 held out, 27 trained in 4 steps an epoch."""
    loaded = load()
    before = logits(loaded)
    add_adapter(loaded, sft_adapter, "sft")
    path = written(tmp_path / "preferences.jsonl", preference_rows(30))
    funnel = run_dpo(path, loaded, sft_adapter, SETTINGS, tmp_path, 0, Silent())
    assert funnel == {"rows": 30, "kept": 30, "trained": 27, "held out": 3}
    curve = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in curve] == list(range(1, 13))
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert curve[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert curve[-1]["rewards/margins"] > 0.1 and curve[-1]["rewards/accuracies"] == 1.0
    names = {
        "logps/chosen",
        "logps/rejected",
        "rewards/chosen",
        "rewards/expected_accuracy",
        "drift/chosen",
        "nll",
        "lr",
        "grad_norm",
    }
    assert names <= curve[-1].keys()
    # Every chosen answer wins at the end, so the judge is expected to agree as often as it says: the mean p of the rows.
    assert 0.6 <= curve[-1]["rewards/expected_accuracy"] <= 0.96
    health = json.loads((tmp_path / "health.json").read_text())
    assert health["status"] in ("healthy", "warning") and "3 held-out pairs" in json.dumps(health)
    adapter = tmp_path / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "rlaif_dpo.json",
    ]
    start, end = load_file(sft_adapter / "adapter_model.safetensors"), weights(tmp_path)
    assert start.keys() == end.keys()
    assert all(tensor.dtype == torch.float32 for tensor in end.values())
    assert all(not torch.equal(start[name], end[name]) for name in start)
    assert adapter_names(loaded) == () and torch.equal(logits(loaded), before)
    add_adapter(loaded, adapter, "dpo")
    assert not torch.equal(logits(loaded), before)


@pytest.mark.parametrize("loss", ["gdpo", "rdpo", "hard", "ipo"])
def test_every_loss_runs_and_starts_at_its_reference(loss: str, load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"loss": loss, "epochs": 1, "nll": 0.1})
    run_dpo(written(tmp_path / "p.jsonl", preference_rows(8)), load(), sft_adapter, settings, tmp_path, 0, Silent())
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    if loss != "ipo":
        # At step 0 the preference loss is ln 2; the NLL term adds a tenth of the per-token NLL.
        assert row["loss"] == pytest.approx(0.693147 + 0.1 * row["nll"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stopped_run_resumes_to_the_same_weights(
    quantization: str, load: Load, sft_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        written(folder / "p.jsonl", preference_rows(30))
    run_dpo(whole / "p.jsonl", load(quantization=quantization), sft_adapter, SETTINGS, whole, 0, Silent())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_training_at(patch, 7, KeyboardInterrupt())
        run_dpo(stopped / "p.jsonl", load(quantization=quantization), sft_adapter, SETTINGS, stopped, 0, Silent())
    assert loop.last_checkpoint(stopped / "checkpoints") == stopped / "checkpoints" / "checkpoint-6"
    run_dpo(stopped / "p.jsonl", load(quantization=quantization), sft_adapter, SETTINGS, stopped, 0, Silent())
    expected, got = weights(whole), weights(stopped)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    curves = [[(row["step"], row["loss"]) for row in read_jsonl(folder / "metrics.jsonl")] for folder in (whole, stopped)]
    assert curves[0] == curves[1]
    assert json.loads((whole / "health.json").read_text()) == json.loads((stopped / "health.json").read_text())


def test_a_policy_that_does_not_start_at_its_reference_is_refused(
    load: Load, sft_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap of PEFT: had the base been the reference, the SFT model's log-ratios would show as margins at step 0."""
    from rlaif_dpo.train.trl_adapter import SoftDPOTrainer

    original = SoftDPOTrainer.compute_ref_log_probs

    def with_base_as_reference(self, model, inputs):  # type: ignore[no-untyped-def]
        ref = model.peft_config.pop("ref")
        try:
            return original(self, model, inputs)
        finally:
            model.peft_config["ref"] = ref

    monkeypatch.setattr(SoftDPOTrainer, "compute_ref_log_probs", with_base_as_reference)
    with pytest.raises(RuntimeError, match=r"does not start at its reference: at step 0 the reward margin is .* \(should be 0\)"):
        run_dpo(written(tmp_path / "p.jsonl", preference_rows(8)), load(), sft_adapter, SETTINGS, tmp_path, 0, Silent())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        pytest.param({"quantization": "nf4"}, 1e-6, marks=pytest.mark.slow),
        pytest.param({"dtype": "bfloat16"}, 5e-2, marks=pytest.mark.slow),
        ({"quantization": "nf4", "dtype": "bfloat16"}, 5e-2),
    ],
    ids=["nf4", "bf16", "nf4-bf16"],
)
def test_a_smaller_base_trains_in_float32_and_starts_at_its_reference(
    settings: dict[str, str], tolerance: float, load: Load, tmp_path: Path
) -> None:
    """nf4 computing in float32: policy and reference run the same dequantised base with bit-equal adapters on the same batch, so
    the margin at step 0 is 0 but for the order of sums; trl's rounding of the policy to bfloat16 would show. In bfloat16 the
    first training batch is padded otherwise than in the reference pass, and 8 bits of activations make that visible.
    """
    loaded = load(**settings)
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    run_sft(written(sft / "rows.jsonl", sft_rows(8)), loaded, LORA, Sft(batch_size=4, lr=5e-3, warmup=0.0), sft, 0, Silent())
    run_dpo(written(dpo / "p.jsonl", preference_rows(8)), loaded, sft / "adapter", SETTINGS, dpo, 0, Silent())
    first, *_ = read_jsonl(dpo / "metrics.jsonl")
    assert first["rewards/margins"] == pytest.approx(0.0, abs=tolerance)
    assert first["loss"] == pytest.approx(0.69314718, abs=tolerance)
    start, moved = weights(sft), weights(dpo)
    assert {tensor.dtype for tensor in (*start.values(), *moved.values())} == {torch.float32}
    # Updates of lr 2e-3 survive in float32 in nearly every weight; the bfloat16 grid around weights of .2 has steps of 1e-3.
    changed = sum(int((moved[name] != start[name]).sum()) for name in start) / sum(tensor.numel() for tensor in start.values())
    assert changed > 0.99
    assert getattr(loaded.model, "is_loaded_in_4bit", False) == ("quantization" in settings)
    assert adapter_names(loaded) == ()


def test_an_adapter_of_another_template_or_none_is_refused(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", preference_rows(4))
    with pytest.raises(UserError, match="no adapter in"):
        run_dpo(path, load(), tmp_path, SETTINGS, tmp_path / "out", 0, Silent())
    other = tmp_path / "other"
    other.mkdir()
    for file in sft_adapter.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    meta = json.loads((other / "rlaif_dpo.json").read_text())
    write_json(other / "rlaif_dpo.json", meta | {"template_hash": "something else"})
    with pytest.raises(UserError, match="another chat template"):
        run_dpo(path, load(), other, SETTINGS, tmp_path / "out", 0, Silent())


def test_pairs_of_a_prompt_stay_on_one_side(load: Load) -> None:
    """40 pairs over 20 prompts: 2 prompts, 4 pairs, are held out; the order of the rows does not matter."""
    rows = preference_rows(20) + [row | {"id": row["id"] + "b"} for row in preference_rows(20)]
    examples = take_census(rows, ("chosen", "rejected"), load(), 512).examples
    train, held_out = hold_out(examples)
    assert (len(train), len(held_out)) == (36, 4)
    sides = [{example.row["prompt"][0]["content"] for example in side} for side in (train, held_out)]
    assert sides[0].isdisjoint(sides[1])
    again = hold_out(examples[::-1])[1]
    assert {e.row["id"] for e in again} == {e.row["id"] for e in held_out}
