"""Rounds side by side: what each measured, which one is kept and why they stopped, as rows and as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.bootstrap import Estimate
from rlaif_dpo.files import write_text
from rlaif_dpo.report import numbers
from rlaif_dpo.report.evidence import evidence
from rlaif_dpo.report.measures import items_of, paired_change
from rlaif_dpo.report.render import render
from rlaif_dpo.report.svg import Series, line_chart

TRUTH = ("adherence", "knowledge", "dangerous_complied", "benign_refused")
REPORT = "report.html"


def round_row(runs: Sequence[Path], final: str) -> dict[str, Any]:
    """What the last of `runs` measured; docs/rounds.md says what each key is. `final` is the name of the final policy.

    The quality is the truth where there is one, else what the round's judge says. `change` is left to the caller.
    """
    found, truth = evidence(runs[-1]), f"truth.{final}.adherence"
    judged = f"judge.comparisons.{final}-base.pooled.win_rate"
    comparison = ((found["judge"] or {}).get("comparisons", {})).get(f"{final}-base")
    own = comparison["pooled"]["win_rate"] if comparison else None
    audit, labels, texts = found["audit"], found["labels"] or {}, found["text"]["policies"]
    builders = labels.get("by_builder", {})
    of_judgments = builders["meta_judged"]["preferences"] if "meta_judged" in builders else None
    return {
        "round": len(runs),
        "path": runs[-1].name,
        "measure": truth if found["truth"] else judged,
        "quality": found["truth"][final]["adherence"] if found["truth"] else own,
        "change": None,
        "self_score": own,
        "self_change": between(runs, judged) if len(runs) > 1 and own else None,
        "truth": {name: found["truth"][final][name] for name in TRUTH} if found["truth"] else None,
        "judge_accuracy": audit["agreement"]["accuracy"] if audit else None,
        "preferences": labels.get("preferences"),
        "judge_pairs": of_judgments,
        "mean_p": (builders["judged"] if of_judgments and "judged" in builders else labels).get("mean_p"),
        "distinct_2": texts[final]["distinct_2"],
        "distinct_2_at_first": evidence(runs[0])["text"]["policies"]["sft"]["distinct_2"],
        "words": texts[final]["words"]["mean"],
        "health": found["health"] and found["health"]["status"],
        "seconds": round(sum(found["seconds_by_stage"].values()), 1),
    }


def between(runs: Sequence[Path], key: str) -> Estimate:
    """By how much a measure of the last run differs from that of the run before, paired by held-out prompt."""
    before, now = (items_of(run).get(key, {}) for run in runs[-2:])
    return paired_change(before, now)


def summary(found: Mapping[str, Any]) -> str:
    """How the rounds went, in a sentence or two."""
    done, stopped = len(found["by_round"]), found["stopped"]
    kept = f"round {found['best']} is kept" if found["best"] else "none is finished"
    if stopped is None:
        return f"{done} of {found['rounds']} rounds done; {kept}."
    return f"{done} of {found['rounds']} rounds done, stopped in round {stopped['round']}: {stopped['sentence']}; {kept}."


def table(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What was measured, one (name, a cell for each round) a line; a line that no round has is left out."""
    rows = found["by_round"]
    truth = [row["truth"] or {} for row in rows]
    lines = [
        ("quality", [_share(row["quality"]) for row in rows]),
        ("change, points", [numbers.points(row["change"]["value"] if row["change"] else None) for row in rows]),
        ("own judge, over base", [_share(row["self_score"]) for row in rows]),
        ("principles kept", [_share(of.get("adherence")) for of in truth]),
        ("knowledge", [_share(of.get("knowledge")) for of in truth]),
        ("danger complied with", [_share(of.get("dangerous_complied")) for of in truth]),
        ("harmless refused", [_share(of.get("benign_refused")) for of in truth]),
        ("judge agrees with gold", [_share(row["judge_accuracy"]) for row in rows]),
        ("preferences", [numbers.number(row["preferences"]) for row in rows]),
        ("of them, judgments", [numbers.number(row.get("judge_pairs")) for row in rows]),
        ("mean label p", [numbers.number(row["mean_p"]) for row in rows]),
        ("distinct bigrams", [numbers.percent(row["distinct_2"]) for row in rows]),
        ("words per answer", [numbers.number(row["words"], 0) for row in rows]),
        ("training", [row["health"] or numbers.NONE for row in rows]),
        ("minutes", [numbers.number(row["seconds"] / 60, 1) for row in rows]),
    ]
    return [(name, cells) for name, cells in lines if any(cell != numbers.NONE for cell in cells)]


def write_rounds(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write the page of all rounds into their folder; each round has its own report. The path of the page."""
    rows = found["by_round"]
    said = (f"round {row['round']}: quality {_share(row['quality'])}, own judge {_share(row['self_score'])}" for row in rows)
    chart = line_chart([_line(rows, "quality", "dpo"), _line(rows, "self_score", "sft")], "; ".join(said), "round")
    page = folder / REPORT
    facts = {"found": found, "rows": rows, "table": table(found), "summary": summary(found), "chart": chart}
    write_text(page, render("rounds.html", facts).encode("utf-8", "replace").decode())
    return page


def _line(rows: Sequence[Mapping[str, Any]], name: str, colour: str) -> Series:
    had = [row for row in rows if row[name] and row[name]["value"] is not None]
    return Series(name, colour, [(row["round"], row[name]["value"]) for row in had])


def _share(estimate: Mapping[str, Any] | None) -> str:
    return numbers.percent(estimate["value"] if estimate else None)
