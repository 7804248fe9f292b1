"""The audit as one page of Markdown."""

from collections.abc import Iterator

from rlaif_dpo.bootstrap import Estimate
from rlaif_dpo.judges.audit.checks import TOLERATED
from rlaif_dpo.judges.audit.gate import Gate
from rlaif_dpo.judges.audit.measures import Estimates
from rlaif_dpo.judges.audit.result import Audit

GROUPS = ("agreement", "position", "stability", "length", "own", "layout", "mass")
TITLES = {"own": "own writing", "mass": "label mass"}
LOGITS = ("logit", "slope", "slope_direct", "slope_reverse", "position_logit")


def markdown(audit: Audit, gate: Gate) -> str:
    """The decision first, then every number with its 95 % interval and the pairs it rests on."""
    return "\n".join(
        [*_decision(audit, gate), *_checks(audit, gate), *_numbers(audit), *_principles(audit), *_calibration(audit)]
    )


def _decision(audit: Audit, gate: Gate) -> Iterator[str]:
    asked = audit.asked
    cost = "price unknown" if asked.cost_usd is None else f"${asked.cost_usd:.2f}"
    yield f"# Audit of the judge {_cell(audit.judge)}"
    yield ""
    yield "**It may label.**" if gate.may_label else f"**{_cell(gate.refusal())}**"
    yield ""
    yield (
        f"{audit.pairs} pairs ({audit.gold} with gold that prefers a reply, {audit.tied} tied), labels by {audit.source}. "
        f"{asked.comparisons} comparisons, {asked.tokens} tokens, {cost}. Without a verdict: {asked.not_had:.1%}."
    )
    for reason, count in asked.reasons.items():
        yield f"- {count} × {_cell(reason)}"
    if asked.refused:
        yield f"- {asked.refused:.1%} of the questions were refused or filtered"
    if gate.order_made:
        yield f"- in {len(gate.order_made)} pairs the order decides the verdict"
    yield ""


def _checks(audit: Audit, gate: Gate) -> Iterator[str]:
    accepted = {check.name for check in gate.accepted}
    yield "## Checks"
    yield ""
    yield "| check | result | |"
    yield "|---|---|---|"
    for check in audit.checks:
        result = "failed, accepted" if check.name in accepted else check.result
        yield f"| {check.name}{' (forbids labelling)' if check.serious else ''} | {result} | {_cell(check.finding)} |"
    yield ""
    yield "| planted probe | failed | of | share | tolerated |"
    yield "|---|---|---|---|---|"
    for kind, failed in audit.probes.items():
        share: Estimate = {"value": failed.share, "low": failed.low, "high": failed.high, "n": failed.n}
        yield f"| {kind} | {failed.failed} | {failed.n} | {_estimate('share', share)} | {TOLERATED[kind]:.0%} |"
    yield ""


def _numbers(audit: Audit) -> Iterator[str]:
    yield "## Measures"
    yield ""
    yield "| | | value (95 % interval) | pairs |"
    yield "|---|---|---|---|"
    for group in GROUPS:
        estimates: Estimates = getattr(audit, group)
        for name, found in estimates.items():
            if found["n"]:
                yield f"| {TITLES.get(group, group)} | {name.replace('_', ' ')} | {_estimate(name, found)} | {found['n']} |"
    yield ""


def _principles(audit: Audit) -> Iterator[str]:
    if not audit.by_principle:
        return
    yield "| principle | accuracy | kappa | position (logits) | pairs |"
    yield "|---|---|---|---|---|"
    for principle, found in audit.by_principle.items():
        numbers = " | ".join(_estimate(name, found[name]) for name in ("accuracy", "kappa", "position_logit"))
        yield f"| {_cell(principle)} | {numbers} | {found['accuracy']['n']} |"
    yield ""


def _calibration(audit: Audit) -> Iterator[str]:
    c = audit.calibration
    if not c.nll["n"]:
        return
    yield "## Calibration"
    yield ""
    yield "| | value (95 % interval) |"
    yield "|---|---|"
    for name in ("ece", "ece_one_order", "brier", "nll", "nll_temperature", "nll_clamp"):
        yield f"| {name.replace('_', ' ')} | {_estimate(name, getattr(c, name))} |"
    yield ""
    yield "| confidence | pairs | mean confidence | agrees with gold |"
    yield "|---|---|---|---|"
    for b in c.bins:
        yield f"| {b.low:.2f} to {b.high:.2f} | {b.n} | {b.confidence:.3f} | {b.accuracy:.3f} |"
    yield ""
    treatment = c.proposed
    if treatment.temperature != 1:
        yield f"Proposed: divide the logit of p by {treatment.temperature:.2f}."
    elif treatment.clamp != (0.0, 1.0):
        yield f"Proposed: hold p within {treatment.clamp[0]:.2f} and {treatment.clamp[1]:.2f}."
    else:
        yield "Proposed: leave the labels as they are."
    yield ""


def _estimate(name: str, found: Estimate) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return "–"
    digits = 2 if name in LOGITS else 3
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _cell(text: str) -> str:
    """Text of models and servers, as one cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
