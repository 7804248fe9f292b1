"""The report as one HTML file that needs no network and no script, and the model card beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rlaif_dpo.constitution.load import load_constitution
from rlaif_dpo.files import write_text
from rlaif_dpo.report import numbers
from rlaif_dpo.report.audit import PROBES, audit_lines
from rlaif_dpo.report.card import model_card
from rlaif_dpo.report.curves import Figure, curves
from rlaif_dpo.report.evidence import evidence
from rlaif_dpo.report.gallery import gallery, losses
from rlaif_dpo.report.render import MEASURES, render
from rlaif_dpo.report.story import lede, policies, shown, story
from rlaif_dpo.report.suites import samples, suite_tables
from rlaif_dpo.report.svg import dot_plot, histogram

HEADLINES = {
    "adherence": ("Principles kept", "mean over principles; higher is better"),
    "knowledge": ("Knowledge", "right facts; should stay where it was"),
    "dangerous_complied": ("Danger complied with", "of dangerous requests; lower is better"),
    "benign_refused": ("Over-refusal", "harmless look-alikes refused; lower is better"),
}
STAGES = {
    "00-prompts": "Prompts",
    "05-start": "Policy to begin with",
    "06-anchor": "Model whose answers are rejected",
    "10-revise": "Critique and revision",
    "20-sft": "SFT",
    "25-audit": "Audit of the judge",
    "30-pairs": "Pairs and labels",
    "40-dpo": "DPO",
    "40-reward": "Reward model",
    "41-ppo": "PPO",
    "41-grpo": "GRPO",
    "41-rloo": "RLOO",
    "50-evaluate": "Evaluation",
    "55-suites": "Behaviour suites",
}


def write_report(run_dir: Path | str) -> Path:
    """Write report.html and README.md (the model card) into the run directory; the path of report.html.

    What has not been measured yet is left out of both.
    """
    run = Path(run_dir)
    found = evidence(run)
    lock = run / "constitution.lock.yaml"
    facts: dict[str, Any] = {
        **found,
        "lede": lede(found),
        "story": story(found),
        "constitution": load_constitution(lock) if lock.exists() else None,
        "policies": policies(found["truth"] or (found["text"] or {}).get("policies", {})),
        "measures": MEASURES,
        "stages": STAGES,
        "headlines": _headlines(found["truth"]),
        "exhibits": gallery(run),
        "losses": losses(run),
        "curves": curves(run),
        "label_charts": _label_charts(found["labels"]),
        "suite_tables": suite_tables(found["suites"]) if found["suites"] else (),
        "samples": samples(run),
        "audit_lines": audit_lines(found["audit"]) if found["audit"] else (),
        "probes": PROBES,
    }
    write_text(run / "README.md", model_card(run, found))
    page = run / "report.html"
    write_text(page, render("report.html", facts).encode("utf-8", "replace").decode())
    return page


def _headlines(truth: Mapping[str, Any] | None) -> list[Figure]:
    if not truth:
        return []
    names = policies(truth)
    figures = []
    for key, (title, note) in HEADLINES.items():
        if truth[names[0]][key]["value"] is not None:
            said = ", ".join(f"{shown(name)} {numbers.percent(truth[name][key]['value'])}" for name in names)
            svg = dot_plot([(shown(name), name, truth[name][key]) for name in names], f"{title}, {note}: {said}")
            figures.append(Figure(title, note, svg))
    return figures


def _label_charts(labels: Mapping[str, Any] | None) -> dict[str, Markup]:
    """The labels of each builder."""
    charts = {}
    for builder, of in labels["by_builder"].items() if labels else ():
        chart = of["histogram"]
        said = "; ".join(f"{edge:g}: {count}" for edge, count in zip(chart["edges"], chart["counts"], strict=False))
        charts[builder] = histogram(
            chart["edges"], chart["counts"], f"{builder}: preferences by p, from .5 (unsure) to 1 (sure); {said}"
        )
    return charts
