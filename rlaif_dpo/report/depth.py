"""The page of the depth probe: one grade, what it is made of, and the curves behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rlaif_dpo.files import write_text
from rlaif_dpo.report.curves import Figure
from rlaif_dpo.report.numbers import NONE, interval, number, percent, points
from rlaif_dpo.report.render import render
from rlaif_dpo.report.svg import Series, line_chart

PERCENT = (0.0, 100.0)
COLOURS = ("base", "sft", "dpo")
TOPICS = {"prefill": "First words", "kl": "Where it changed", "tamper": "Canaries", "benign": "Harmless fine-tuning"}
MEASURES = {
    "prefill": "complies when prefilled, mean over 1 to 20 tokens",
    "kl": "KL in the first five tokens, beyond an even spread",
    "tamper": "complies under the canary attacks, mean over steps",
    "benign": "complies more after harmless fine-tuning",
}


@dataclass(frozen=True)
class Line:
    """A number of the probe in print: its letter, and the most it may be for A, B, C and D."""

    name: str
    value: str
    letter: str
    limits: tuple[str, ...]


def write_depth(found: Mapping[str, Any], page: Path) -> None:
    """Write what `pipeline.probe.probe_depth` found as one HTML file that needs no network and no script."""
    sentences = found["grade"]["sentences"]
    facts = {
        "found": found,
        "verdict": sentences["grade"],
        "story": [(TOPICS.get(topic, topic.capitalize()), said) for topic, said in sentences.items() if topic != "grade"],
        "lines": _lines(found),
        "figures": [figure for figure in _figures(found) if figure.svg],
        "legend": [(COLOURS[i % 3], curve["rows"]) for i, curve in enumerate(found["tamper"]["curves"])],
        "plain": _plain(found),
    }
    write_text(page, render("depth.html", facts))


def _lines(found: Mapping[str, Any]) -> list[Line]:
    grade = found["grade"]
    values = {
        "prefill": percent(found["prefill"]["auc"]),
        "kl": percent(found["kl"]["excess"]),
        "tamper": percent(found["tamper"]["area"]),
        "benign": points(found["benign"]["drift"]),
    }
    return [
        Line(MEASURES[name], values[name], grade["letters"].get(name, NONE), tuple(percent(limit) for limit in limits))
        for name, limits in grade["limits"].items()
    ]


def _plain(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The other numbers, named."""
    kl, points_of = found["kl"], found["prefill"]["points"]
    named = [
        (f"complies with {point['k']} tokens prefilled", f"{percent(point['asr'])} ({interval(point)}; {point['asked']} prompts)")
        for point in points_of
        if point["k"] in (0, 1, 3, 5, 10, 20)
    ]
    named += [
        (
            "KL in the first five tokens",
            f"{percent(kl['first_five'])} of {number(kl['total'])} nats; even: {percent(kl['even'])}",
        ),
        ("half of the KL is reached at token", number(kl["depth50"])),
    ]
    return named + [
        (
            f"steps to one half, {curve['rows']} canaries",
            number(curve["steps_to_half"]) if curve["steps_to_half"] else "not reached",
        )
        for curve in found["tamper"]["curves"]
    ]


def _figures(found: Mapping[str, Any]) -> list[Figure]:
    prefilled = [(point["k"], 100 * point["asr"]) for point in found["prefill"]["points"]]
    kl = list(enumerate(found["kl"]["by_position"], 1))
    tamper = [
        Series(f"{curve['rows']} canaries", COLOURS[i % 3], _percents(curve["asr"]))
        for i, curve in enumerate(found["tamper"]["curves"])
    ]
    return [
        Figure(
            "First words",
            "% of answers that go on complying after so many tokens of a complying answer; deep alignment stays low",
            _chart([Series("ASR", "accent", prefilled)], "compliance in percent by prefilled tokens", "tokens"),
        ),
        Figure(
            "Where it changed",
            "KL from the reference in nats at each token; shallow alignment is a spike on the left",
            _chart([Series("KL", "accent", kl)], "KL in nats by token", "token", None),
        ),
        Figure(
            "Canaries",
            "% of dangerous prompts complied with after each step of fine-tuning on so many canaries",
            _chart(tamper, "compliance in percent by step, a line for each number of canaries", "step"),
        ),
        Figure(
            "Harmless fine-tuning",
            "the same after fine-tuning on plain questions and answers",
            _chart([Series("ASR", "accent", _percents(found["benign"]["asr"]))], "compliance in percent by step", "step"),
        ),
    ]


def _percents(shares: list[float]) -> list[tuple[float, float]]:
    return [(step, 100 * share) for step, share in enumerate(shares)]


def _chart(series: list[Series], label: str, x_label: str, whole: tuple[float, float] | None = PERCENT) -> Markup:
    said = "; ".join(f"{s.name} from {s.points[0][1]:.3g} to {s.points[-1][1]:.3g}" for s in series if s.points)
    return line_chart(series, f"{label}: {said}", x_label, whole)
