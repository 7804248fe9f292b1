"""Real prompts, multi-turn, long and in every script, through every stage.

The answers of these models to them are nonsense; that no row is lost uncounted is the point. `RLAIF_DPO_REAL_ROWS=1114` runs all
of them instead of a few.
"""

import gzip
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlaif_dpo import Run, load_recipe, run
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.prompts import load_prompts
from rlaif_dpo.recipe.schema import PromptSource

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
HH = DATA / "hh_rlhf" / "harmless-base_test.jsonl.gz"
INSTRUCTIONS = DATA / "self_instruct" / "user_oriented_instructions.jsonl"
ROWS = int(os.environ.get("RLAIF_DPO_REAL_ROWS", "32"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single-turn, multi-turn and benign prompts in the shares 662 : 200 : 252, and two that no context holds."""
    if not HH.exists():
        pytest.skip("the data folder is not here")
    rows = load_prompts(PromptSource(source=str(HH), column="chosen", paired_column="rejected"), 0).rows
    single = [row for row in rows if len(row.messages) == 1]
    multi = [row for row in rows if len(row.messages) > 1]
    benign = load_prompts(PromptSource(source=str(INSTRUCTIONS), column="instruction"), 0).rows
    chosen = single[: ROWS * 662 // 1114] + multi[: ROWS * 200 // 1114] + benign[: ROWS * 252 // 1114]
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in chosen:
            file.write(json.dumps({"prompt": list(row.messages)}) + "\n")
        for word in ("word", "слово"):
            file.write(json.dumps({"prompt": f"{word} " * 30_000}) + "\n")
    return path


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly initialised Qwen3 with a byte-level tokenizer and its family's own chat template."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from tests.tiny import tiny_model_folder

    package = importlib.util.find_spec("trl")
    assert package is not None and package.submodule_search_locations is not None
    template = Path(package.submodule_search_locations[0]) / "chat_templates" / "qwen3.jinja"
    folder = tiny_model_folder(tmp_path_factory.mktemp("qwen"), "qwen3", template=template.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    # a random model takes one token like another: with 30 of them ending the answer some answers end
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, *range(3, 33)], pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("model", ["sandbox", "qwen3"])
def test_every_row_is_kept_or_counted(model: str, prompts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = "sandbox" if model == "sandbox" else str(request.getfixturevalue("qwen3"))
    half = ROWS * 2 // 5
    recipe = load_recipe(
        "quickstart",
        [
            f"name={model}", f"model.path={path}", "constitution=harmless", f"prompts.source={prompts}", f"prompts.revise={half}",
            f"prompts.pairs={half}", f"prompts.evaluate={ROWS - 2 * half + 2}", "revise.rounds=2", "revise.max_new_tokens=32",
            "revise.drop_unchanged=false", "revise.max_repetition=1.0", "pairs.max_new_tokens=32", "pairs.candidates=3",
            "evaluate.max_new_tokens=32", "evaluate.bootstrap=100", "judge.min_mass=0.0", "judge.principles=2", "sft.epochs=1",
            "dpo.epochs=1", "sft.max_length=4096", "dpo.max_length=4096", "sft.micro_batch_size=2", "dpo.micro_batch_size=2",
        ],
    )  # fmt: skip
    done = run(recipe, root=tmp_path)
    _check_accounts(done)
    assert done.report()["truth"] is None


def _check_accounts(done: Run) -> None:
    stage: dict[str, dict[str, Any]] = {
        folder.name: json.loads((folder / "stage.json").read_text())["counts"] for folder in done.path.glob("[0-9]*")
    }
    revise, pairs = stage["10-revise"], stage["30-pairs"]
    assert sum(1 for _ in read_jsonl(done.path / "10-revise" / "drafts.jsonl")) == revise["prompts"]
    rows = revise.get("rows", revise["prompts"])
    assert rows == revise["kept"] + sum(n for reason, n in revise.items() if reason.startswith("dropped: "))
    assert sum(1 for _ in read_jsonl(done.path / "10-revise" / "rejected.jsonl")) == rows - revise["kept"]
    assert pairs["kept"] == sum(1 for _ in read_jsonl(done.path / "30-pairs" / "preferences.jsonl")) > 0
    too_long = [row for row in read_jsonl(done.path / "10-revise" / "drafts.jsonl") if row.get("error")]
    too_long += [row for row in read_jsonl(done.path / "30-pairs" / "candidates.jsonl") if row.get("error")]
    too_long += [row for row in read_jsonl(done.path / "50-evaluate" / "answers.jsonl") if row.get("error")]
    assert too_long and all("exceeds the context" in row["error"] for row in too_long)
