"""The evidence of a run as one JSON object, gathered from the files of its directory. docs/evidence.md documents every key."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif_dpo.constitution.load import load_constitution
from rlaif_dpo.files import Row, read_journal, read_json, read_jsonl
from rlaif_dpo.judges.base import total_cost
from rlaif_dpo.judges.build import asks_model, member_settings
from rlaif_dpo.judges.meta import first_wins, game_of
from rlaif_dpo.recipe.load import load_recipe
from rlaif_dpo.report.gaps import ledger

SAMPLING = ("ppo", "grpo", "rloo")
"""The optimizers that learn from answers they sample."""
GENERATED = (
    "10-revise/drafts.jsonl",
    "10-revise/critiques.jsonl",
    "10-revise/revisions.jsonl",
    "25-audit/candidates.jsonl",
    "30-pairs/candidates.jsonl",
    "30-pairs/anchors.jsonl",
    "30-pairs/contrasts.jsonl",
    *(f"41-{name}/{file}.jsonl" for name in SAMPLING for file in ("baseline", "references", "episodes")),
    *(f"40-dpo/{file}.jsonl" for file in ("baseline", "references", "episodes")),
    "50-evaluate/answers.jsonl",
    "55-suites/answers.jsonl",
)
LABELLED = "30-pairs/judgments.jsonl"
META = "30-pairs/meta_judgments.jsonl"
JUDGED = (
    "25-audit/judgments.jsonl",
    "25-audit/repeats.jsonl",
    LABELLED,
    META,
    "30-pairs/grades.jsonl",
    *(f"41-{name}/{file}.jsonl" for name in SAMPLING for file in ("judgments", "rules", "held_out")),
    "40-dpo/held_out.jsonl",
    "50-evaluate/judgments.jsonl",
    "55-suites/judgments.jsonl",
)
FINAL_STAGE = {"dpo": "40-dpo"} | {name: f"41-{name}" for name in SAMPLING}
"""Where the final policy of each optimizer lies."""
LABEL_BINS = 10


def evidence(run_dir: Path | str) -> dict[str, Any]:
    """Everything measured in the run at `run_dir`. A part whose stage has not run is None; a run that stopped early is no error.

    Raises:
        UserError: The run's own recipe or constitution cannot be read.
    """
    run = Path(run_dir)
    results = read_json(run / "50-evaluate" / "results.json") or {}
    truth = results.get("truth")
    identity = _identity(run)
    found: dict[str, Any] = {
        "run": identity,
        "truth": {**truth["policies"], "differences": truth["differences"]} if truth else None,
        "audit": read_json(run / "25-audit" / "audit.json"),
        "suites": read_json(run / "55-suites" / "suites.json"),
        "judge": results.get("judge"),
        "text": results.get("text"),
        "tax": read_json(run / "tax" / "results.json"),
        "prompts": results.get("prompts"),
        "missing": results.get("missing"),
        "funnel": _of_stages(run, lambda record: record["counts"]),
        "labels": _labels(run / "30-pairs"),
        "reward": read_json(run / "40-reward" / "card.json"),
        "health": read_json(run / identity["final"] / "health.json"),
        "cost": _cost(run),
        "seconds_by_stage": _of_stages(run, lambda record: record["seconds"]),
    }
    return found | {"gaps": ledger(run, found)}


def reproduce_command(run: Path, name: str) -> str:
    """The command that makes the run again, under the constitution as it was, into a folder of its own."""
    words = ["rlaif-dpo", "run", str(run / "recipe.yaml"), f"constitution={run / 'constitution.lock.yaml'}", f"name={name}-again"]
    return shlex.join(words)


def _identity(run: Path) -> dict[str, Any]:
    recipe = load_recipe(run / "recipe.yaml") if (run / "recipe.yaml").exists() else None
    lock = run / "constitution.lock.yaml"
    constitution = load_constitution(lock) if lock.exists() else None
    env = read_json(run / "env.json") or {}
    name = recipe.name if recipe else run.name
    optimizer = recipe.optimizer if recipe else "dpo"
    return {
        "name": name,
        "path": str(run),
        "seed": recipe.seed if recipe else None,
        "constitution": constitution
        and {"name": constitution.name, "hash": constitution.hash, "principles": [p.id for p in constitution.principles]},
        "model": recipe
        and {
            "path": recipe.model.path,
            "quantization": recipe.model.quantization,
            "device": env.get("device"),
            "dtype": env.get("dtype"),
        },
        "round": recipe.round if recipe else None,
        "start": ("revise" if recipe.start.revise else "pairs") if recipe and recipe.start.adapter else None,
        "optimizer": optimizer,
        "builders": recipe.pairs.builders.weights if recipe else None,
        "final": FINAL_STAGE[optimizer],
        "loss": recipe.dpo.loss if recipe and optimizer == "dpo" else None,
        "rewards": recipe.grpo.rewards.terms if recipe and optimizer in ("grpo", "rloo") else None,
        "versions": env.get("versions"),
        "python": env.get("python"),
        "platform": env.get("platform"),
        "command": reproduce_command(run, name),
    }


def _of_stages(run: Path, part: Callable[[Row], Any]) -> dict[str, Any]:
    """A part of the record of every finished stage, in the order of the stages."""
    return {path.parent.name: part(read_json(path)) for path in sorted(run.glob("*/stage.json"))}


def _labels(folder: Path) -> dict[str, Any] | None:
    """The labels that were trained on (preferences), and what the judgments behind them were made of."""
    preferences = list(read_jsonl(folder / "preferences.jsonl"))
    judgments = read_journal(folder / "judgments.jsonl").values()
    if not preferences and not judgments:
        return None
    by_builder: dict[str, list[Row]] = {}
    for row in preferences:
        by_builder.setdefault(row.get("builder", "judged"), []).append(row)
    verdicts = [verdict for row in judgments for verdict in row["verdicts"]]
    by_principle: dict[str, list[Row]] = {}
    for verdict in verdicts:
        by_principle.setdefault(verdict["principle_id"], []).append(verdict)
    return {
        **_label_numbers(preferences),
        "by_builder": {builder: _label_numbers(of) for builder, of in sorted(by_builder.items())},
        "judgments": len(judgments),
        "no_judgment": sum(row["p"] is None for row in judgments),
        **_verdict_numbers(verdicts),
        "by_principle": {principle: _verdict_numbers(of) for principle, of in sorted(by_principle.items())},
        "meta": _meta(list(read_journal(folder / "meta_judgments.jsonl").values()), by_builder.get("meta_judged", [])),
    }


def _meta(judgments: list[Row], preferences: list[Row]) -> dict[str, Any] | None:
    """What the pairs of judgments were made from, and what the meta-judge likes besides the better judgment."""
    if not judgments:
        return None
    scores = [row["scores"] for row in preferences if None not in row["scores"] and row["scores"][0] != row["scores"][1]]
    return {
        "judgments": len(judgments),
        "no_judgment": sum(row["p"] is None for row in judgments),
        "first_wins": first_wins(game for row in judgments if (game := game_of(row, 0, 1)) is not None),
        "higher_score": _mean(chosen > rejected for chosen, rejected in scores),
    }


def _label_numbers(preferences: list[Row]) -> dict[str, Any]:
    counts = [0] * LABEL_BINS
    for row in preferences:
        counts[min(int((row["p"] - 0.5) * 2 * LABEL_BINS), LABEL_BINS - 1)] += 1
    longer = [chosen > rejected for chosen, rejected in (row["lengths"] for row in preferences) if chosen != rejected]
    return {
        "preferences": len(preferences),
        "histogram": {"edges": [round(0.5 + 0.5 * edge / LABEL_BINS, 3) for edge in range(LABEL_BINS + 1)], "counts": counts},
        "mean_p": _mean(row["p"] for row in preferences),
        "chosen_longer": _mean(longer),
    }


def _verdict_numbers(verdicts: list[Row]) -> dict[str, float | None]:
    logits = [verdict["position_logit"] for verdict in verdicts if verdict["position_logit"] is not None]
    return {
        "position_logit": _mean(logits),
        "mass": _mean((verdict["mass_ab"] + verdict["mass_ba"]) / 2 for verdict in verdicts),
        "confidence": _mean(max(verdict["p"], 1 - verdict["p"]) for verdict in verdicts if verdict["p"] is not None),
    }


def _cost(run: Path) -> dict[str, Any]:
    """What was spent: rows that failed and were tried again count twice."""
    judgments = [row for name in JUDGED for row in read_jsonl(run / name)]
    return {
        "usd": total_cost(row["cost_usd"] for row in judgments),
        "judge_tokens": sum(row["tokens"] for row in judgments),
        "tokens": sum(row["prompt_tokens"] + row["completion_tokens"] for name in GENERATED for row in read_jsonl(run / name)),
        "per_preference": _per_preference(run),
    }


def _per_preference(run: Path) -> dict[str, Any] | None:
    """What a judged preference cost where a judge is behind an endpoint: its judgment, and its share of those that made none."""
    recipe = load_recipe(run / "recipe.yaml") if (run / "recipe.yaml").exists() else None
    preferences = sum(row.get("builder", "judged") == "judged" for row in read_jsonl(run / "30-pairs" / "preferences.jsonl"))
    asked = {judge.model for judge in member_settings(recipe.judge) if asks_model(judge)} if recipe else set()
    if recipe is None or not preferences or not asked & recipe.endpoints.keys():
        return None
    judgments = list(read_jsonl(run / LABELLED))
    usd = total_cost(row["cost_usd"] for row in judgments)
    return {
        "usd": None if usd is None else usd / preferences,
        "tokens": sum(row["tokens"] for row in judgments) / preferences,
    }


def _mean(values: Iterable[float]) -> float | None:
    had = list(values)
    return fmean(had) if had else None
