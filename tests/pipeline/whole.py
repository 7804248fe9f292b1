"""The real stages on a random model: a recipe for them, and what must be true of a run that was killed and taken up again."""

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from safetensors.torch import load_file

from rlaif_dpo.files import Row, read_jsonl, write_text
from rlaif_dpo.pipeline import Run, run
from rlaif_dpo.recipe import Recipe, load_recipe
from tests.children import finish, kill_once, start
from tests.tiny import tiny_model_folder

RECIPE = """\
name: whole
constitution: telehealth
model: {path: MODEL}
prompts: {source: prompts.jsonl, revise: 8, pairs: 8, evaluate: 4}
revise: {rounds: 1, max_new_tokens: 24, max_repetition: 1.0, drop_unchanged: false}
lora: {r: 2}
sft: {batch_size: 4}
pairs: {candidates: 4, per_prompt: 1, max_new_tokens: 24}
judge: {JUDGE principles: 1, min_mass: 0.0, audit_pairs: 12}
dpo: {batch_size: 4}
evaluate: {max_new_tokens: 8, bootstrap: 50}
"""
LAST = "50-evaluate"
LABELLING = ("25", "30", "40", "41", "50")
"""The first letters of the stages that follow SFT."""


def whole_recipe(folder: Path, more: str = "", judge: str = "") -> Recipe:
    """The recipe in `folder`, with the sections `more` and, for the judge, the settings `judge` (`key: value, `)."""
    write_text(folder / "recipe.yaml", RECIPE.replace("MODEL", str(_model_that_stops(folder))).replace("JUDGE ", judge) + more)
    rows = [{"prompt": f"{n} times {n} is what, and why is it so?"} for n in range(30)]
    write_text(folder / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return load_recipe(folder / "recipe.yaml")


def _model_that_stops(tmp_path: Path) -> Path:
    """A random model that ends its turn often: the embedding of its end token, its output weight too, is 20 times larger."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    folder = tiny_model_folder(tmp_path, context_length=1024)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][AutoTokenizer.from_pretrained(folder).eos_token_id] *= 20
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _run(recipe: Recipe, root: str, until: str | None) -> None:
    run(recipe, root=root, until=until)


def taught_as(found: Run, name: str) -> None:
    """A run `name` beside `found` that has its prompts, its revisions and its SFT adapter already."""
    shutil.copytree(found.path, found.path.with_name(name), ignore=lambda _, names: [of for of in names if of[:2] in LABELLING])


def finished_run(recipe: Recipe, root: Path) -> Run:
    """In a process of its own, on one thread as those that are killed: another number of threads rounds otherwise."""
    finish(start(_run, recipe, str(root), None))
    return Run(root / recipe.name)


def check_killed(
    recipe: Recipe,
    finished: Run,
    root: Path,
    stage: str,
    killed_at: Sequence[int],
    journals: Collection[str],
    in_any_order: Collection[str] = (),
) -> list[list[str]]:
    """A run in `root` is killed each time that `stage` has its baseline and so many updates, and each time another process goes
    on from the last checkpoint. Adapter, files of rows and verdict are those of `finished`, which was left alone.

    Returns:
        The checkpoints that were there after each kill.
    """
    whole, killed = finished.path / stage, root / recipe.name / stage
    shutil.copytree(finished.path, killed.parent, ignore=shutil.ignore_patterns(stage, LAST, "events.jsonl"))
    kept = []
    for updates in killed_at:
        kill_once(start(_run, recipe, str(root), stage), _trained(killed, updates))
        assert not (killed / "adapter").exists()
        kept.append(sorted(path.name for path in (killed / "checkpoints").glob("checkpoint-*")))
    finish(start(_run, recipe, str(root), stage))
    said = [row["event"] for row in read_jsonl(killed.parent / "events.jsonl") if row.get("stage") == stage]
    assert said == ["started", *["resumed"] * len(killed_at), "finished"]
    for name in journals:
        assert list(read_jsonl(killed / name)) == list(read_jsonl(whole / name)), name
    for name in in_any_order:
        assert timeless(killed / name) == timeless(whole / name), name
    assert (killed / "health.json").read_text() == (whole / "health.json").read_text()
    one, other = (load_file(at / "adapter" / "adapter_model.safetensors") for at in (whole, killed))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    return kept


def _trained(stage: Path, updates: int) -> Callable[[], bool]:
    baseline = stage / "checkpoints" / "baseline.json"
    return lambda: baseline.exists() and sum(1 for _ in read_jsonl(stage / "metrics.jsonl")) >= updates


def timeless(path: Path) -> list[Row]:
    """The rows without clock times, in an order of their own: which of two batches came first is no part of the promise."""
    rows = [{k: v for k, v in row.items() if "seconds" not in k and "runtime" not in k} for row in read_jsonl(path)]
    return sorted(rows, key=lambda row: json.dumps([row.get("id"), row.get("step"), row], sort_keys=True))
