"""Tripwires on training by reward: numbers that go wrong before, or while, the reward still rises."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from rlaif_dpo.files import Row
from rlaif_dpo.train.health import COLLAPSE, DRIFT, Check, conclude

Level = Literal["ok", "warn", "stop"]
Range = tuple[float | None, float | None]
OPEN: Range = (None, None)
VARIED = 0.1


@dataclass(frozen=True)
class Wire:
    """A metric with the range in which it is well, and the wider one beyond which a run should stop.

    Attributes:
        metric: Its name in `metrics.jsonl`.
        well: (low, high), None where open.
        bearable: The same.
        says: The sentence about `{value}`.
        fix: What to do where it is not well.
    """

    metric: str
    well: Range
    bearable: Range
    says: str
    fix: str

    def level(self, value: float | None) -> Level:
        """How far out `value` is; what is not a number is far out."""
        if value is None or not math.isfinite(value) or not _within(value, self.bearable):
            return "stop"
        return "ok" if _within(value, self.well) else "warn"

    def sentence(self, value: float | None) -> str:
        said = self.says.format(value=math.nan if value is None else value)
        return f"{said}." if self.level(value) == "ok" else f"{said}: {self.fix}."


@dataclass(frozen=True)
class Trip:
    """A wire that was tripped, how far, and what that says."""

    wire: Wire
    level: Level
    sentence: str


def measured_wires(max_kl: float) -> tuple[Wire, ...]:
    """Those on sampled answers, to be looked at before anything is learned from them.

    Ratios are to the SFT model's own answers.
    """
    return (
        Wire(
            "kl",
            (None, max_kl / 2),
            (None, max_kl),
            "answers lie {value:.2f} nats from the reference",
            "raise kl_coef, or lower lr or updates",
        ),
        Wire(
            "reward_gain",
            (-0.5, 5.0),
            (-3.0, None),
            "the mean reward lies {value:+.2f} standard deviations of the SFT model's from its mean",
            "below, the policy unlearns: lower lr; far above, it may use a hole in the reward: read episodes.jsonl",
        ),
        Wire(
            "entropy_ratio",
            (0.5, 2.0),
            (0.1, None),
            "the entropy per token is {value:.2f} times the SFT model's",
            "answers become all alike (or noise); raise kl_coef or lower lr",
        ),
        Wire(
            "length_ratio",
            (0.5, 2.0),
            (0.1, 10.0),
            "answers have {value:.2f} times the tokens of the SFT model's",
            "the reward may be one for length",
        ),
        Wire(
            "distinct_ratio",
            (0.5, None),
            (0.1, None),
            "answers have {value:.2f} times the distinct bigrams of the SFT model's",
            "they become all alike; raise kl_coef or lower lr",
        ),
        Wire(
            "boilerplate",
            (None, 0.5),
            (None, 0.9),
            "one phrase is in {value:.0%} more of the answers than of the SFT model's",
            "read episodes.jsonl; raise kl_coef if it is an empty one",
        ),
        Wire(
            "held_out",
            (-2.0, None),
            (-3.0, None),
            "reward and held-out judge agree by {value:+.1f} standard errors",
            "the reward likes what the judge dislikes: read held_out.jsonl, and mend the reward or the labels behind it",
        ),
        Wire("no_eos", (None, 0.1), (None, 0.9), "{value:.0%} of answers do not end", "raise max_new_tokens or no_eos_penalty"),
        Wire("no_score", (None, 0.1), (None, 0.9), "{value:.0%} of answers got no score", "look at what gives the reward"),
    )


def looked_wires(max_kl: float) -> tuple[Wire, ...]:
    """Those on DPO: on answers that are looked at and not learned from, so that whether they end or score is no matter."""
    return (
        *(wire for wire in measured_wires(max_kl) if wire.metric not in ("reward_gain", "no_eos", "no_score")),
        Wire(
            "chosen_drift",
            (DRIFT, None),
            (COLLAPSE, None),
            "chosen answers moved by {value:+.3f} nats a token",
            "likelihood is displaced to other answers; lower lr or raise dpo.nll",
        ),
    )


def learned_wires() -> tuple[Wire, ...]:
    """Those on an update of the weights. They warn only: what an update did shows in the next answers."""
    return (
        Wire(
            "zero_variance",
            (None, 0.5),
            OPEN,
            "{value:.0%} of groups have answers that all earn the same, of which nothing is learned",
            "raise group_size or temperature, or take a finer reward",
        ),
        Wire("clip_fraction", (None, 0.4), OPEN, "{value:.0%} of ratios were clipped", "lower lr or epochs"),
        Wire("approx_kl", (None, 0.1), OPEN, "an update moved the policy by {value:.3f} nats a token", "lower lr or epochs"),
    )


def tripped(wires: Sequence[Wire], row: Mapping[str, Any]) -> list[Trip]:
    """The wires that `row` trips, the worst first. A metric that has no meaning for its answers is not in the row."""
    found = [Trip(wire, wire.level(row[wire.metric]), wire.sentence(row[wire.metric])) for wire in wires if wire.metric in row]
    return sorted((trip for trip in found if trip.level != "ok"), key=lambda trip: trip.level != "stop")


def rollout_health(name: str, curve: Sequence[Row], max_kl: float, stopped: str | None) -> dict[str, Any]:
    """The verdict on a finished run, as `health.json` holds it.

    Args:
        name: Of the optimizer.
        curve: The rows of `metrics.jsonl`.
        max_kl: The tripwire on KL.
        stopped: The sentence of the tripwire that ended the run; None if it came to its end.
    """
    last = curve[-max(1, len(curve) // 10) :]
    means = {name: _mean([row.get(name) for row in last]) for name in {name for row in curve for name in row}}
    score = means.get("score")
    if stopped is not None:
        said = f"a tripwire stopped the run in update {len(curve)}: {stopped}"
        first = Check("tripwire", None, None, None, said, broken=True)
    elif score is None:
        first = Check("score", None, 0.0, None, "the score is not a number; lower lr.", broken=True)
    else:
        said = f"the mean score {'rose' if score > 0 else 'fell'} by {abs(score):.3f} from the SFT model's"
        said += "." if score > 0 else ": nothing was gained; raise lr or updates, or lower kl_coef."
        first = Check("score", score, 0.0, None, said)
    checks = [first]
    for wire in (*measured_wires(max_kl), *learned_wires()):
        if wire.metric in means and (stopped is None or means[wire.metric] is not None):
            checks.append(wire_check(wire, means[wire.metric]))
    # A policy that always earns the same leaves no variance to explain.
    varied = [row.get("explained_variance") for row in last if (row["score_std"] or 0) > VARIED * (curve[0]["score_std"] or 0)]
    if (explained := _mean(varied)) is not None:
        said = f"the value function explains {explained:.0%} of the returns' variance"
        said += "." if explained > 0 else ": no better than a constant; raise value_lr."
        checks.append(Check("explained_variance", explained, 0.0, 1.0, said))
    return conclude(name, checks, first.sentence)


def wire_check(wire: Wire, value: float | None) -> Check:
    """What a wire says of a value, as a check of `health.json`."""
    return Check(wire.metric, value, *wire.well, wire.sentence(value), broken=wire.level(value) == "stop")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _within(value: float, limits: Range) -> bool:
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)
