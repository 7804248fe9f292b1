"""The judge on an engine: option log-probabilities of both orders, no text generated."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import exp, log

from rlaif_dpo.engines.base import Engine, OptionRequest, OptionScores
from rlaif_dpo.judges.base import Comparison, Criterion, Judgment, Verdict
from rlaif_dpo.judges.templates import OPTIONS, compare_messages
from rlaif_dpo.recipe.schema import JudgeSettings


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def average_logit(logit_ab: float, logit_ba: float, orders: str) -> float:
    """The logit of P(first is better) from both orders' logits.

    `logit` averages the logits, which removes a constant pull of the position exactly; `probability` averages the two
    probabilities (Lee et al. 2023, 2309.00267, section 2.1) and is pulled towards .5 by it.
    """
    if orders == "logit":
        return (logit_ab + logit_ba) / 2
    return log(sigmoid(logit_ab) + sigmoid(logit_ba)) - log(sigmoid(-logit_ab) + sigmoid(-logit_ba))


class LocalJudge:
    """Implements `Judge` with `engine.score_options`: for each comparison and criterion two requests, one for each order."""

    def __init__(self, engine: Engine, settings: JudgeSettings) -> None:
        self._engine, self._settings = engine, settings

    @property
    def name(self) -> str:
        return self._engine.name

    def compare(self, comparisons: Sequence[Comparison], skip: Collection[str] = ()) -> Iterator[Judgment]:
        owners = {f"{c.id}/{k}/{order}": c for c in comparisons for k in range(len(c.criteria)) for order in ("ab", "ba")}
        requests = [request for c in comparisons for request in _requests(c)]
        had = {id for id, comparison in owners.items() if comparison.id in skip}
        scores: defaultdict[str, dict[str, OptionScores]] = defaultdict(dict)
        for comparison in comparisons:
            if not comparison.criteria and comparison.id not in skip:
                yield self._judgment(comparison, {})
        for score in self._engine.score_options(requests, skip=had):
            comparison = owners[score.id]
            scores[comparison.id][score.id] = score
            if len(scores[comparison.id]) == 2 * len(comparison.criteria):
                yield self._judgment(comparison, scores.pop(comparison.id))

    def _judgment(self, comparison: Comparison, scores: Mapping[str, OptionScores]) -> Judgment:
        verdicts: list[Verdict] = []
        logits: list[tuple[float, float]] = []
        for k, criterion in enumerate(comparison.criteria):
            verdict, logit = self._verdict(criterion, scores[f"{comparison.id}/{k}/ab"], scores[f"{comparison.id}/{k}/ba"])
            verdicts.append(verdict)
            if logit is not None:
                logits.append((criterion.weight, logit))
        weight = sum(w for w, _ in logits)
        p = sigmoid(sum(w * logit for w, logit in logits) / weight) if weight > 0 else None
        return Judgment(
            id=comparison.id,
            p=p,
            verdicts=tuple(verdicts),
            judge=self.name,
            source="logprob",
            tokens=sum(score.prompt_tokens for score in scores.values()),
            error=None if p is not None else self._reason(verdicts, scores),
        )

    def _verdict(self, criterion: Criterion, ab: OptionScores, ba: OptionScores) -> tuple[Verdict, float | None]:
        """The verdict under one principle, and its logit: None when an order failed or had too little mass on the options."""
        logprobs_ab = (ab.logprobs[0], ab.logprobs[1]) if ab.error is None else None
        logprobs_ba = (ba.logprobs[1], ba.logprobs[0]) if ba.error is None else None
        logit = position = None
        if logprobs_ab is not None and logprobs_ba is not None:
            logit_ab, logit_ba = logprobs_ab[0] - logprobs_ab[1], logprobs_ba[0] - logprobs_ba[1]
            position = (logit_ab - logit_ba) / 2
            if min(ab.mass, ba.mass) >= self._settings.min_mass:
                logit = average_logit(logit_ab, logit_ba, self._settings.orders)
        verdict = Verdict(
            principle_id=criterion.principle_id,
            weight=criterion.weight,
            p=None if logit is None else sigmoid(logit),
            logprobs_ab=logprobs_ab,
            logprobs_ba=logprobs_ba,
            mass_ab=ab.mass,
            mass_ba=ba.mass,
            position_logit=position,
        )
        return verdict, logit

    def _reason(self, verdicts: Sequence[Verdict], scores: Mapping[str, OptionScores]) -> str:
        if not verdicts:
            return "no principle applies"
        if failures := [score.error for score in scores.values() if score.error is not None]:
            return failures[0]
        if all(verdict.p is not None for verdict in verdicts):
            return "every principle has weight 0"
        best = max(min(verdict.mass_ab, verdict.mass_ba) for verdict in verdicts)
        return f"only {best:.3f} of the probability is on {' and '.join(OPTIONS)}; judge.min_mass is {self._settings.min_mass}"


def _requests(comparison: Comparison) -> Iterator[OptionRequest]:
    for k, criterion in enumerate(comparison.criteria):
        for order, pair in (("ab", (comparison.first, comparison.second)), ("ba", (comparison.second, comparison.first))):
            messages = compare_messages(comparison.messages, *pair, criterion.compare)
            yield OptionRequest(f"{comparison.id}/{k}/{order}", messages, OPTIONS)
