"""What a reward model is worth, measured on pairs it was not trained on, and said in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from rlaif_dpo.train.health import Check, conclude, wilson

BINS = 10
MAX_ECE = 0.1
MAX_LENGTH_CORRELATION = 0.5


@dataclass(frozen=True)
class ScoredPair:
    """A pair under the reward model: both scores, both lengths in tokens, and the judge's P(chosen is better)."""

    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int
    p: float

    @property
    def gap(self) -> float:
        return self.chosen - self.rejected


@dataclass(frozen=True)
class Bin:
    """Pairs with about the same confidence: how many, their mean confidence, and how often the judge is expected to agree."""

    pairs: int
    confidence: float
    agreement: float


def calibration(pairs: Sequence[ScoredPair]) -> list[Bin]:
    """Pairs by the confidence max(q, 1 - q) in ten bins of .05 from .5 to 1, the empty ones left out; q = sigma(gap).

    The judge agrees with probability p where the model prefers the chosen answer, else 1 - p. So it does not matter which of two
    answers stands first, and labels may be soft.
    """
    bins: dict[int, list[tuple[float, float]]] = {}
    for pair in pairs:
        q = _sigmoid(pair.gap)
        confidence, agreement = (q, pair.p) if q >= 0.5 else (1 - q, 1 - pair.p)
        bins.setdefault(min(int((confidence - 0.5) * 2 * BINS), BINS - 1), []).append((confidence, agreement))
    return [Bin(len(rows), fmean(c for c, _ in rows), fmean(a for _, a in rows)) for _, rows in sorted(bins.items())]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean over pairs of |confidence - agreement| of their bin (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    return sum(b.pairs * abs(b.confidence - b.agreement) for b in bins) / sum(b.pairs for b in bins)


def length_correlation(gaps: Sequence[float], pairs: Sequence[ScoredPair]) -> float:
    """Correlation of `gaps` (first minus second) with the gap in length, the same whichever answer stands first; 0 without any.

    Turning a pair round flips both signs, so with every pair counted both ways the means are 0 and it is
    sum(g l) / sqrt(sum(g^2) sum(l^2)).
    """
    lengths = [pair.chosen_tokens - pair.rejected_tokens for pair in pairs]
    norm = math.sqrt(sum(g * g for g in gaps) * sum(n * n for n in lengths))
    return sum(g * n for g, n in zip(gaps, lengths, strict=True)) / norm if norm else 0.0


def reward_card(pairs: Sequence[ScoredPair], where: str, trained: int) -> dict[str, Any]:
    """The card of a reward model, as `card.json` holds it.

    Args:
        pairs: At least one, under the final model.
        where: What they are: `held-out`, or `training` where there were too few prompts to hold some out.
        trained: Pairs trained on.

    Returns:
        `verdict`, `status` and `checks` as in `health.json`; the measured numbers and the calibration bins, where scores are
        numbers at all.
    """
    counts = {"pairs": {"trained": trained, "measured": len(pairs), "where": where}}
    if not all(math.isfinite(pair.gap) for pair in pairs):
        lost = Check("scores", None, None, None, "its scores are not numbers; lower lr.", broken=True)
        return conclude("The reward model", [lost], "") | counts
    bins = calibration(pairs)
    right = sum(pair.gap > 0 for pair in pairs)
    low, high = wilson(right, len(pairs))
    scores = [score for pair in pairs for score in (pair.chosen, pair.rejected)]
    numbers: dict[str, Any] = counts | {
        "accuracy": {"value": right / len(pairs), "low": low, "high": high},
        "expected_accuracy": fmean(pair.p if pair.gap > 0 else 1 - pair.p for pair in pairs),
        "loss": fmean(_cross_entropy(pair.p, pair.gap) for pair in pairs),
        "label_entropy": fmean(_entropy(pair.p) for pair in pairs),
        "ece": expected_calibration_error(bins),
        "length_correlation": length_correlation([pair.gap for pair in pairs], pairs),
        "length_correlation_of_labels": length_correlation([2 * pair.p - 1 for pair in pairs], pairs),
        "scores": {
            "mean": fmean(scores),
            "std": pstdev(scores),
            "chosen": fmean(pair.chosen for pair in pairs),
            "rejected": fmean(pair.rejected for pair in pairs),
        },
        "calibration": [vars(b) for b in bins],
    }
    checks = [_accuracy(numbers, right), _calibrated(numbers), _lengths(numbers)]
    return conclude("The reward model", checks, checks[0].sentence) | numbers


def card_markdown(card: dict[str, Any]) -> str:
    """The card as a short page."""
    if "accuracy" not in card:
        return f"# Reward model\n\n{card['verdict']}\n"
    accuracy, scores, pairs = card["accuracy"], card["scores"], card["pairs"]
    rows = {
        "accuracy": f"{accuracy['value']:.1%} (95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%})",
        "agreement the judge would expect": f"{card['expected_accuracy']:.1%}",
        "loss, and the least that soft labels allow": f"{card['loss']:.4f}, {card['label_entropy']:.4f}",
        "calibration error (ECE)": f"{card['ece']:.3f}",
        "correlation with length": f"{card['length_correlation']:+.2f} (the labels' own: "
        f"{card['length_correlation_of_labels']:+.2f})",
        "scores": f"mean {scores['mean']:+.2f}, standard deviation {scores['std']:.2f}",
        "chosen, rejected": f"{scores['chosen']:+.2f}, {scores['rejected']:+.2f}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# Reward model\n\n{card['verdict']}\n\nTrained on {pairs['trained']} pairs, measured on {pairs['measured']} "
        f"{pairs['where']} ones.\n\n| | |\n|---|---|\n{table}\n"
    )


def _accuracy(card: dict[str, Any], right: int) -> Check:
    accuracy, pairs = card["accuracy"], card["pairs"]
    low, high = accuracy["low"], accuracy["high"]
    said = (
        f"it ranks {right} of {pairs['measured']} {pairs['where']} pairs as the judge does "
        f"({accuracy['value']:.0%}, 95 % interval {low:.0%} to {high:.0%}; chance is 50 %)"
    )
    said += "." if low > 0.5 else ": not shown to be better than chance; use more pairs, or DPO."
    return Check("accuracy", accuracy["value"], 0.5 if low > 0.5 else math.nextafter(accuracy["value"], 2), 1.0, said, high < 0.5)


def _calibrated(card: dict[str, Any]) -> Check:
    ece = card["ece"]
    said = f"its confidence is off by {ece:.3f} on average"
    said += "." if ece <= MAX_ECE else ": more than labels of the judge allow; train on more pairs or for fewer epochs."
    return Check("calibration error", ece, None, MAX_ECE, said)


def _lengths(card: dict[str, Any]) -> Check:
    own, labels = card["length_correlation"], card["length_correlation_of_labels"]
    said = f"its score gaps correlate with length gaps by {own:+.2f}, the judge's labels by {labels:+.2f}"
    said += "." if abs(own) <= MAX_LENGTH_CORRELATION else ": part of what it rewards may be length."
    return Check("length correlation", own, -MAX_LENGTH_CORRELATION, MAX_LENGTH_CORRELATION, said)


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _cross_entropy(p: float, gap: float) -> float:
    """-p log sigma(gap) - (1 - p) log sigma(-gap)."""
    softplus = max(-gap, 0.0) + math.log1p(math.exp(-abs(gap)))
    return softplus + (1 - p) * gap


def _entropy(p: float) -> float:
    return -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)
