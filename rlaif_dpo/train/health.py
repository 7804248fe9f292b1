"""Is this DPO run healthy? Measured on held-out pairs and on the training curve, and said in words."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from rlaif_dpo.files import Row

MARGIN = 0.01
DRIFT = -0.5
COLLAPSE = -2.0
LENGTH_RATIO = (0.75, 1.33)
# Student's t at .975 by degrees of freedom.
STUDENT = {
    1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 20: 2.09, 30: 2.04, 60: 2.0, 120: 1.98,
}  # fmt: skip


@dataclass(frozen=True)
class PairScore:
    """A pair under the policy, in nats: the log-ratios to the reference, the completion lengths in tokens, and its label."""

    chosen_logratio: float
    rejected_logratio: float
    chosen_tokens: int
    rejected_tokens: int
    p: float

    @property
    def margin(self) -> float:
        return self.chosen_logratio - self.rejected_logratio


@dataclass(frozen=True)
class Check:
    """One measured number with the range it should lie in (None: unbounded), and what it says.

    `broken` marks a value so far out that the adapter should not be used, `unclear` one that rests on too few pairs to judge it.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    sentence: str
    broken: bool = False
    unclear: bool = False

    @property
    def ok(self) -> bool:
        if self.value is None or self.broken or self.unclear:
            return False
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)


def health(
    curve: Sequence[Row], scores: Sequence[PairScore], beta: float, where: str, looked: Sequence[Check] = ()
) -> dict[str, Any]:
    """The verdict on a finished run, as `health.json` holds it.

    Args:
        curve: The rows of `metrics.jsonl`.
        scores: Pairs under the final policy.
        beta: To turn log-ratio margins into rewards.
        where: What the pairs are: `held-out`, or `training` where there were too few prompts to hold some out.
        looked: What sampled answers showed.

    Returns:
        `verdict` (one sentence), `status` (healthy, warning or broken), `checks` (name, value, low, high, ok, sentence).
    """
    pairs = f"{len(scores)} {where} pair{'' if len(scores) == 1 else 's'}"
    checks = [_loss(curve), _margin(scores, beta, pairs), _accuracy(scores, pairs), _drift(scores, pairs), _lengths(scores)]
    checks += looked
    return conclude("DPO", checks, checks[1].sentence)


def conclude(name: str, checks: Sequence[Check], good_news: str) -> dict[str, Any]:
    """The verdict of `checks` on the training `name`, in the shape of `health.json`; `good_news` is said where all hold."""
    broken = [check for check in checks if check.broken]
    failed = broken + [check for check in checks if not check.ok and not check.broken]
    if broken:
        status, verdict = "broken", f"{name} is broken: {broken[0].sentence}"
    elif failed:
        status, verdict = "warning", f"{name} finished, with a warning: {failed[0].sentence}"
    else:
        status, verdict = "healthy", f"{name} is healthy: {good_news}"
    return {"verdict": verdict, "status": status, "checks": [_row(check) for check in checks]}


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return middle - half, middle + half


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean (Student 1908), the values taken as independent; without bounds for a single one."""
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    # between two entries the one for fewer values, so that the interval is never too narrow
    half = STUDENT[max(freedom for freedom in STUDENT if freedom < n)] * stdev(values) / math.sqrt(n)
    return fmean(values) - half, fmean(values) + half


def _loss(curve: Sequence[Row]) -> Check:
    losses = [row["loss"] for row in curve]
    if not losses or any(loss is None for loss in losses):
        return Check("loss", None, None, None, "the loss became infinite or not a number; lower lr.", broken=True)
    few = max(1, len(losses) // 10)
    first, last = fmean(losses[:few]), fmean(losses[-few:])
    word = "fell" if last < first else "did not fall"
    said = f"the loss {word} ({first:.4f} in the first steps, {last:.4f} in the last)."
    return Check("loss fell by", first - last, 0.0 if last < first else math.nextafter(first - last, math.inf), None, said)


def _margin(scores: Sequence[PairScore], beta: float, pairs: str) -> Check:
    rewards = [beta * score.margin for score in scores]
    margin = fmean(rewards)
    if not math.isfinite(margin):
        return Check("margin", None, MARGIN, None, "the reward margin is not a number; lower lr.", broken=True)
    low, high = mean_interval(rewards)
    fell = high <= 0
    unclear = low <= 0 and high >= MARGIN
    if unclear:
        interval = "" if len(scores) == 1 else f", 95 % interval {low:.3f} to {high:.3f}"
        said = f"the reward margin is {margin:.3f} on {pairs}{interval}: too few to tell whether it rose; raise prompts.pairs."
    elif fell:
        said = f"the reward margin went from 0 to {margin:.3f} on {pairs}: the policy moved away from what the judge prefers."
    elif margin < MARGIN:
        said = f"the reward margin rose only to {margin:.4f} on {pairs}: it learned next to nothing; raise lr or epochs."
    else:
        said = f"the reward margin rose from 0 to {margin:.3f} on {pairs}."
    return Check("margin", margin, MARGIN, None, said, broken=fell, unclear=unclear)


def _accuracy(scores: Sequence[PairScore], pairs: str) -> Check:
    right, n = sum(score.margin > 0 for score in scores), len(scores)
    low, high = wilson(right, n)
    interval = f"{right / n:.0%}, 95 % interval {low:.0%} to {high:.0%}; chance is 50 %"
    said = f"{right} of {pairs} ({interval}) are ranked as the judge ranks them."
    return Check("reward accuracy", right / n, 0.5, 1.0, said, broken=high < 0.5)


def _drift(scores: Sequence[PairScore], pairs: str) -> Check:
    drift = sum(score.chosen_logratio for score in scores) / sum(score.chosen_tokens for score in scores)
    if not math.isfinite(drift):
        said = "the log-probability of chosen answers is not a number; lower lr."
        return Check("chosen drift", None, DRIFT, None, said, broken=True)
    said = f"chosen answers {'gained' if drift >= 0 else 'lost'} {abs(drift):.3f} nats a token on {pairs}"
    said += "." if drift >= DRIFT else ": likelihood is displaced to other answers; lower lr or raise dpo.nll."
    return Check("chosen drift", drift, DRIFT, None, said, broken=drift < COLLAPSE)


def _lengths(scores: Sequence[PairScore]) -> Check:
    chosen, rejected = fmean(s.chosen_tokens for s in scores), fmean(s.rejected_tokens for s in scores)
    ratio = chosen / rejected
    said = f"chosen answers have {ratio:.2f} times the tokens of rejected ones ({chosen:.0f} and {rejected:.0f})"
    said += "." if LENGTH_RATIO[0] <= ratio <= LENGTH_RATIO[1] else ": part of what is learned may be length."
    return Check("length ratio", ratio, *LENGTH_RATIO, said)


def _row(check: Check) -> dict[str, Any]:
    row = asdict(check) | {"ok": check.ok}
    del row["broken"], row["unclear"]
    return row | {"sentence": check.sentence[0].upper() + check.sentence[1:]}
