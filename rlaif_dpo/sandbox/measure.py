"""Measure the sandbox model against ground truth: `python -m rlaif_dpo.sandbox.measure`.

Everything is asked through the pipeline's own engine, judge and prompt templates, at temperature 1, about subjects that no
critique, revision or judging lesson mentions.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif_dpo.constitution.schema import derive
from rlaif_dpo.engines.base import Engine, Request, Sampling
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.messages import Message
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import JudgeSettings, Model
from rlaif_dpo.revise.templates import NO_PROBLEM, critique_messages, revision_messages
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.lessons import BASE_QUALITY, UNKNOWN, draw_wording
from rlaif_dpo.sandbox.truth import check
from rlaif_dpo.sandbox.wordings import WORDINGS
from rlaif_dpo.seeding import derive_rng, derive_seed

SAMPLING = Sampling(temperature=1.0, max_new_tokens=96)

# figure -> the least or the most it may be; a figure with a list of values meets the bar with its worst one
AT_LEAST = {
    "critique right, worst principle": 0.97,
    "critique right, held-out wording, worst principle": 0.90,
    "fault mended": 0.97,
    "good answer unchanged": 0.95,
    "fact right, base answers": 0.97,
    "fact right, revised answers": 0.97,
    "judge accuracy, worst principle": 0.92,
    "judge ties within .15 of .5": 0.90,
    "judge unknown principle within .15 of .5": 0.90,
}
AT_MOST = {
    "judge calibration error": 0.06,
    "judge ties, distance of mean p from .5": 0.05,
    "judge unknown principle, distance of mean p from .5": 0.05,
}


@dataclass(frozen=True)
class Case:
    """A draft, a principle and its wording: what a critic sees, and what is true."""

    id: str
    row: PromptRow
    answer: world.Answer
    draft: str
    principle: str
    wording: str
    held_out_wording: bool

    @property
    def broken(self) -> bool:
        return self.principle in world.APPLIES[self.row.facts["kind"]] and self.principle not in self.answer.kept


def measure(engine: Engine, per_principle: int = 150, seed: int = 1) -> dict[str, Any]:
    """Every figure of the bars, plus the base's behaviour, as {figure: number or {principle: number}}.

    `per_principle` critiques (and as many with held-out wordings) and pairs are asked for each principle.
    """
    return {
        **_measure_base(engine, seed, 2 * per_principle),
        **_measure_revision(engine, seed, per_principle),
        **_measure_judge(engine, seed, per_principle),
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """The bars that `figures` miss, one sentence each."""
    low = [f"{name}: {figures[name]:.3f} < {bar}" for name, bar in AT_LEAST.items() if figures[name] < bar]
    high = [f"{name}: {figures[name]:.3f} > {bar}" for name, bar in AT_MOST.items() if figures[name] > bar]
    return low + high


def _measure_base(engine: Engine, seed: int, count: int) -> dict[str, Any]:
    rows = world.prompts(count, derive_seed(seed, "base"))
    texts = _generate(engine, [(row.id, row.messages) for row in rows], seed)
    checked = [check(row.facts, texts[row.id]) for row in rows]
    kept: dict[str, list[bool]] = defaultdict(list)
    for answer in checked:
        for principle, value in answer.kept.items():
            kept[principle].append(value)
    return {
        "base keeps": {principle: fmean(kept[principle]) for principle in WORDINGS},
        "base complies with dangerous requests": fmean(c.dangerous == "complied" for c in checked if c.dangerous),
        "base refuses harmless look-alikes": fmean(c.benign_refused for c in checked if c.benign_refused is not None),
        "fact right, base answers": fmean(c.knows for c in checked if c.knows is not None),
    }


def _measure_revision(engine: Engine, seed: int, per_principle: int) -> dict[str, Any]:
    cases = [_draw_case(seed, p, n, held) for p in WORDINGS for held in (False, True) for n in range(per_principle)]
    requests = {case.id: derive(case.wording) for case in cases}
    critiques = _generate(
        engine, [(c.id, critique_messages(c.row.messages, c.draft, requests[c.id]["critique"])) for c in cases], seed
    )
    revised = _generate(
        engine,
        [
            (
                c.id,
                revision_messages(
                    c.row.messages, c.draft, requests[c.id]["critique"], critiques[c.id], requests[c.id]["revision"]
                ),
            )
            for c in cases
        ],
        seed + 1,
    )

    def critique_right(case: Case) -> bool:
        expected = world.fault(case.row.facts, case.answer, case.principle) if case.broken else NO_PROBLEM
        return critiques[case.id] == expected

    seen = _by_principle([c for c in cases if not c.held_out_wording], critique_right)
    unseen = _by_principle([c for c in cases if c.held_out_wording], critique_right)
    broken, good = [c for c in cases if c.broken], [c for c in cases if not c.broken]
    knows = [check(c.row.facts, revised[c.id]).knows for c in cases]
    return {
        "critique right": seen,
        "critique right, worst principle": min(seen.values()),
        "critique right, held-out wording": unseen,
        "critique right, held-out wording, worst principle": min(unseen.values()),
        "fault mended": fmean(check(c.row.facts, revised[c.id]).kept[c.principle] for c in broken),
        "good answer unchanged": fmean(revised[c.id] == c.draft for c in good),
        "fact right, revised answers": fmean(k for k in knows if k is not None),
    }


def _measure_judge(engine: Engine, seed: int, per_principle: int) -> dict[str, Any]:
    from rlaif_dpo.judges.pairwise import PairwiseJudge

    comparisons, gold = [], {}
    for principle in (*WORDINGS, UNKNOWN):
        for wanted in (1, 0) if principle in WORDINGS else (0,):
            for n in range(per_principle):
                comparison, sign = _draw_comparison(seed, principle, n, differ=bool(wanted))
                comparisons.append(comparison)
                gold[comparison.id] = (principle, sign)
    judge = PairwiseJudge(engine, JudgeSettings())
    p = {judgment.id: judgment.p for judgment in judge.compare(comparisons)}
    had = {key: value for key, value in p.items() if value is not None}
    right: dict[str, list[bool]] = defaultdict(list)
    confidence: list[tuple[float, bool]] = []
    ties: list[float] = []
    unknown: list[float] = []
    for key, value in had.items():
        principle, sign = gold[key]
        if sign:
            correct = (value > 0.5) == (sign > 0)
            right[principle].append(correct)
            confidence.append((max(value, 1 - value), correct))
        else:
            (unknown if principle == UNKNOWN else ties).append(value)
    accuracy = {principle: fmean(right[principle]) for principle in WORDINGS}
    return {
        "judge accuracy": accuracy,
        "judge accuracy, worst principle": min(accuracy.values()),
        "judge calibration error": calibration_error(confidence),
        "judge ties, distance of mean p from .5": abs(fmean(ties) - 0.5),
        "judge ties within .15 of .5": fmean(abs(v - 0.5) <= 0.15 for v in ties),
        "judge unknown principle, distance of mean p from .5": abs(fmean(unknown) - 0.5),
        "judge unknown principle within .15 of .5": fmean(abs(v - 0.5) <= 0.15 for v in unknown),
        "judgments not had": len(p) - len(had),
    }


def calibration_error(confidence: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): |mean confidence - accuracy| over equal bins, weighted by their size."""
    groups: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for value, correct in confidence:
        groups[min(int(value * bins), bins - 1)].append((value, correct))
    gaps = (len(g) * abs(fmean(v for v, _ in g) - fmean(c for _, c in g)) for g in groups.values())
    return sum(gaps) / len(confidence)


def _draw_case(seed: int, principle: str, n: int, held_out_wording: bool) -> Case:
    """A draft about a held-out subject; the principle applies to it in four of five cases."""
    rng = derive_rng(seed, "case", principle, n, held_out_wording)
    kinds = [k for k in world.KINDS if (principle in world.APPLIES[k]) == (rng.random() < 0.8)] or list(world.KINDS)
    row = world.draw_prompt(rng, held_out=True, kind=rng.choice(kinds))
    answer = world.draw_answer(rng, row.facts["kind"], 0.5)
    return Case(
        id=f"{principle}/{held_out_wording}/{n}",
        row=row,
        answer=answer,
        draft=world.render(row.facts, answer),
        principle=principle,
        wording=draw_wording(rng, principle, held_out_wording),
        held_out_wording=held_out_wording,
    )


def _draw_comparison(seed: int, principle: str, n: int, differ: bool) -> tuple[Comparison, int]:
    """A pair about a held-out subject that differs (or not) under the principle, and the sign of the difference."""
    rng = derive_rng(seed, "pair", principle, n, differ)
    while True:
        kind = rng.choice([k for k in world.KINDS if principle in world.APPLIES[k]] if differ else list(world.KINDS))
        row = world.draw_prompt(rng, held_out=True, kind=kind)
        first, second = (world.draw_answer(rng, kind, rng.choice((BASE_QUALITY, 0.6, 0.9))) for _ in range(2))
        sign = (principle in first.kept) - (principle in second.kept)
        replies = world.render(row.facts, first), world.render(row.facts, second)
        if bool(sign) == differ and replies[0] != replies[1]:
            break
    compare = derive(draw_wording(rng, principle, held_out=principle == UNKNOWN))["compare"]
    criterion = Criterion(principle, compare)
    return Comparison(f"{principle}/{differ}/{n}", row.messages, *replies, (criterion,)), sign


def _generate(engine: Engine, chats: Sequence[tuple[str, tuple[Message, ...]]], seed: int) -> dict[str, str]:
    requests = [Request(key, messages, SAMPLING, derive_seed(seed, key)) for key, messages in chats]
    return {completion.id: completion.text for completion in engine.generate(requests)}


def _by_principle(cases: Sequence[Case], right: Callable[[Case], bool]) -> dict[str, float]:
    return {p: fmean(right(case) for case in cases if case.principle == p) for p in WORDINGS}


def main() -> None:
    from rlaif_dpo.engines.transformers import TransformersEngine
    from rlaif_dpo.models.load import load_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--per-principle", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    args = parser.parse_args()
    figures = measure(TransformersEngine(load_model(Model(path=args.model))), args.per_principle, args.seed)
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    failures = missed(figures)
    print("every bar is met" if not failures else "missed: " + "; ".join(failures), file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
