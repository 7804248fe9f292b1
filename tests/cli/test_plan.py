"""`rlaif-dpo plan`: memory on a card, what to change, and the exit code."""

import json
from pathlib import Path

import pytest

from rlaif_dpo.files import write_json, write_text
from tests.cli.conftest import Cli
from tests.tiny import tiny_model_folder

EIGHT_BILLION = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "tie_word_embeddings": False, "max_position_embeddings": 8192, "head_dim": 128,
}  # fmt: skip


@pytest.fixture
def eight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A recipe for a model with the config of Llama-3.1-8B, a tiny tokenizer and no weights: a plan reads none."""
    folder = tiny_model_folder(tmp_path, "eight")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | EIGHT_BILLION)
    write_text(folder / "model.safetensors", "")
    write_text(tmp_path / "prompts.jsonl", "".join(f'{{"prompt": "Question {n}, please?"}}\n' for n in range(30)))
    path = tmp_path / "eight.yaml"
    write_text(
        path,
        f"name: eight\nconstitution: harmless\nmodel:\n  path: {folder}\n  quantization: nf4\n"
        f"prompts:\n  source: {tmp_path / 'prompts.jsonl'}\n  revise: 10\n  pairs: 10\n  evaluate: 10\n",
    )
    capsys.readouterr()  # what saving the model printed
    return path


def test_a_plan_that_fits(cli: Cli, tmp_path: Path):
    ended = cli("plan", "quickstart", "--gpu", "t4", "--root", str(tmp_path))
    assert ended.code == 0, ended.err
    assert "Memory on t4 in GiB, of 14.6; compute type float16." in ended.out and "It fits." in ended.out
    facts = ended.out.split("The first prompt as the model sees it:")[0].replace(str(tmp_path), "runs")
    assert max(map(len, facts.splitlines())) <= 80
    for word in ("10-revise", "50-evaluate", "weights", "cache", "judge passes", "min in all", "a merged model in 16 bits"):
        assert word in facts


@pytest.mark.parametrize(
    ("recipe", "trained"), [("rl-cai-ppo", ["20-sft", "40-reward", "41-ppo"]), ("drlaif-grpo", ["20-sft", "41-grpo"])]
)
def test_every_optimizer_is_planned(cli: Cli, tmp_path: Path, recipe: str, trained: list[str]):
    ended = cli("plan", recipe, "--gpu", "t4", "--json", "--root", str(tmp_path))
    advice = json.loads(ended.out)["advice"]
    assert ended.code == 0 and advice["fits"]
    assert [stage["stage"] for stage in advice["memory"] if stage["parts"]["optimiser"]] == trained
    assert [work["stage"] for work in advice["work"] if work["steps"]] == trained
    learner = f"{recipe.rpartition('-')[2]}.micro_batch_size=1"
    smaller = json.loads(cli("plan", recipe, learner, "--gpu", "t4", "--json", "--root", str(tmp_path)).out)["advice"]
    before, after = (next(m["parts"] for m in found["memory"] if m["stage"] == trained[-1]) for found in (advice, smaller))
    assert sum(after.values()) < sum(before.values()) and after["adapters"] == before["adapters"]


def test_what_does_not_fit_ends_with_2_and_with_its_changes_0(cli: Cli, eight: Path):
    root = ("--root", str(eight.parent / "runs"))
    ended = cli("plan", str(eight), "--gpu", "t4", *root)
    assert (ended.code, ended.err) == (2, "")
    assert "It does not fit. It would with:" in ended.out
    changes = [line.strip() for line in ended.out.split("It would with:\n")[1].split("\n\n")[0].splitlines()]
    assert changes[0].startswith("sft.micro_batch_size=")
    assert cli("plan", str(eight), *changes, "--gpu", "t4", *root).code == 0
    assert cli("plan", str(eight), "sft.micro_batch_size=1", "dpo.micro_batch_size=1", "--gpu", "rtx-4090", *root).code == 0


def test_json_has_bytes_by_part(cli: Cli, eight: Path):
    ended = cli("plan", str(eight), "--gpu", "rtx-4090", "--json", "--root", str(eight.parent / "runs"))
    advice = json.loads(ended.out)["advice"]
    assert ended.code == 2 and advice["fits"] is False
    assert advice["card"] == "rtx-4090" and advice["dtype"] == "bfloat16"
    stages = {memory["stage"]: memory["parts"] for memory in advice["memory"]}
    # 6,979,321,856 weights x 0.5159 bytes in 4 bits, the other 1,050,939,392 parameters x 2 bytes
    assert stages["20-sft"]["weights"] == pytest.approx(6_979_321_856 * 0.515869 + 1_050_939_392 * 2, rel=1e-4)
    assert stages["40-dpo"]["adapters"] == 2 * stages["20-sft"]["adapters"] == 2 * 4 * 41_943_040
    assert all(work["hours"][0] < work["hours"][1] for work in advice["work"])


def test_without_a_card_the_plan_is_for_this_machine(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = cli("plan", "quickstart", "--root", str(tmp_path))
    assert ended.code == 0
    assert "Memory on CPU in GiB" in ended.out and "compute type float32" in ended.out
    assert "The speed of this machine is not known" in ended.out


def test_a_model_type_that_is_not_known_is_said(cli: Cli, eight: Path):
    folder = eight.parent / "eight"
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"model_type": "mixtral"})
    ended = cli("plan", str(eight), "--gpu", "t4", "--root", str(eight.parent / "runs"))
    assert ended.code == 0
    assert "is not estimated: its type, mixtral, is not known here" in ended.out


def test_mistakes_have_their_line(cli: Cli, eight: Path):
    ended = cli("plan", str(eight), "--gpu", "rtx-4091")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == 'error: --gpu rtx-4091 is not known here. Did you mean "rtx-4090"?\n'
    ended = cli("plan", str(eight), "lora.target_modules=[q_proj, norm]", "--gpu", "t4")
    assert ended.code == 2 and "norm is no linear layer" in ended.err


def test_rows_over_max_length_are_counted(cli: Cli, eight: Path):
    """30 prompts of one length: with the room of 256 tokens every row is over a max_length of 256."""
    eight.write_text(eight.read_text() + "sft:\n  max_length: 256\n")
    found = json.loads(cli("plan", str(eight), "--gpu", "t4", "--json").out)
    assert found["phases"]["revise"]["over_length"] == 10 and found["phases"]["pairs"]["over_length"] == 0


def test_auto_is_planned_with_the_most_rows_that_fit(cli: Cli, eight: Path):
    """A plan for 4 rows at once, by hand, is the plan for `auto` if 4 fit and 8 do not."""

    def memory(size: str) -> dict[str, int]:
        settings = (f"sft.micro_batch_size={size}", f"dpo.micro_batch_size={size}", "dpo.gradient_checkpointing=true")
        advice = json.loads(cli("plan", str(eight), *settings, "--gpu", "rtx-3090", "--json").out)["advice"]
        return {stage["stage"]: sum(stage["parts"].values()) for stage in advice["memory"]}

    sizes = {size: memory(size) for size in ("auto", "16", "8", "4", "2", "1")}
    room = 0.95 * 23.57 * 2**30
    for stage in ("20-sft", "40-dpo"):
        fitting = [found[stage] for size, found in sizes.items() if size != "auto" and found[stage] <= room]
        assert sizes["auto"][stage] == max(fitting)


def test_rounds_are_planned_one_by_one(cli: Cli, tmp_path: Path):
    """quickstart: 240 x (1 + 2 x 9) + 320 x 4 + 200 x 3 = 6440 answers; without critique and revision 1880."""
    ended = cli("plan", "quickstart", "rounds=3", "iteration.sft=first", "--gpu", "t4", "--root", str(tmp_path))
    assert ended.code == 0, ended.err
    table = ended.out.split("All 3 rounds, were none stopped")[1]
    assert [line.split()[2] for line in table.splitlines()[2:6]] == ["6,440", "1,880", "1,880", "10,200"]
    assert max(map(len, table.splitlines())) <= 80
    plans = json.loads(cli("plan", "quickstart", "rounds=2", "--gpu", "t4", "--json", "--root", str(tmp_path)).out)["rounds"]
    assert [plan["name"] for plan in plans] == ["round-1", "round-2"]
    assert [stage["stage"] for stage in plans[1]["stages"]][:3] == ["00-prompts", "05-start", "10-revise"]
