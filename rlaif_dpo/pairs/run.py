"""Phase 2's data as a stage: prompts in, preference rows out, by one builder or several in their shares."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.engines.base import Engine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Journal, read_jsonl, replacing_jsonl, write_jsonl
from rlaif_dpo.judges.base import Judge
from rlaif_dpo.judges.rules.judge import RulesJudge
from rlaif_dpo.pairs.builder import ELSEWHERE, KEPT, Builder, Materials, Output
from rlaif_dpo.pairs.contrast import rlcd
from rlaif_dpo.pairs.human import human
from rlaif_dpo.pairs.imported import imported
from rlaif_dpo.pairs.judged import judged
from rlaif_dpo.pairs.ladder import rbr_ladder
from rlaif_dpo.pairs.meta_judged import meta_judged
from rlaif_dpo.pairs.planned import shares
from rlaif_dpo.pairs.preferences import Hygiene, hygiene
from rlaif_dpo.pairs.revised import revision_over_draft
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.pairs import Pairs
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.seeding import derive_rng

BUILDERS: Mapping[str, Builder] = {
    "human": human,
    "import": imported,
    "revision_over_draft": revision_over_draft,
    "rbr_ladder": rbr_ladder,
    "rlcd": rlcd,
    "judged": judged,
    "meta_judged": meta_judged,
}
"""In the order in which they work. A pair that two of them make is the first one's: people's before anybody else's."""
SAMPLING = ("rbr_ladder", "rlcd", "judged", "meta_judged")
"""Those that ask the model about phase 2's prompts."""


@dataclass(frozen=True)
class PairsSummary:
    """What became of the pairs, and what the preferences look like.

    Attributes:
        funnel: Counts, in the order of the work. Of a builder, `pairs` = `kept` + those dropped as pairs, and of candidates
            `candidates` = `usable candidates` + those dropped one by one; `judged` is the pairs that went to the judge. With
            several builders each count has its builder's name behind it, and `kept` alone is the rows that are written.
        hygiene: Lengths and labels of the rows that are written.
    """

    funnel: dict[str, int]
    hygiene: Hygiene


def run_pairs(
    prompts: Sequence[PromptRow],
    constitution: Constitution,
    settings: Pairs,
    judge_settings: JudgeSettings,
    engine: Engine,
    judge: Judge | None,
    folder: Path,
    seed: int,
    progress: Progress,
    held_out: Sequence[PromptRow] = (),
    rules: RulesJudge | None = None,
    revised: Path | None = None,
    anchor: Engine | None = None,
) -> PairsSummary:
    """The pairs of `settings.builders` as rows of `folder`/preferences.jsonl; each says which `builder` made it.

    One builder's rows are in its order; several builders' are mixed in their shares. Resumes row by row from the journals in
    `folder`. dropped.jsonl has every candidate, prompt and pair that was dropped, by whom and why.

    Args:
        prompts: Of phase 2.
        constitution: As in `Materials`.
        settings: As there.
        judge_settings: As there.
        engine: The SFT model.
        judge: Needed by `judged` alone.
        folder: Of the stage.
        seed: Of the run.
        progress: Who is told.
        held_out: The prompts of the evidence: pairs from elsewhere about them are dropped.
        rules: Needed by `rbr_ladder` alone.
        revised: The folder of phase 1: needed by `revision_over_draft`; pairs from elsewhere about its prompts are dropped.
        anchor: As in `Materials`.

    Raises:
        UserError: A builder has no preference to train on, or a set that cannot be used.
    """
    weights = settings.builders.weights
    alone = len(weights) == 1
    m = Materials(
        prompts, constitution, settings, judge_settings, engine, judge, rules, folder, revised, held_out, seed, progress, anchor
    )
    made, preferences, dropped = folder / "made.jsonl", folder / "preferences.jsonl", folder / "dropped.jsonl"
    funnel = {"prompts": len(prompts)}
    outputs: list[Output] = []
    with replacing_jsonl(preferences if alone else made) as keep, replacing_jsonl(dropped) as drop:
        for name in (name for name in BUILDERS if name in weights):
            others = None if alone else frozenset(key for output in outputs for key in output.keys)
            outputs.append(out := Output(name, keep, drop, others))
            counts = BUILDERS[name](m, out) | ({} if alone else out.dropped(ELSEWHERE)) | {KEPT: out.counts[KEPT]}
            funnel |= {key if alone else f"{key} ({name})": count for key, count in counts.items()}
    for out in outputs:
        if not out.counts[KEPT]:
            raise UserError(_nothing_left(out, len(prompts), dropped, alone))
    if not alone:
        drawn = mix({out.builder: out.ids for out in outputs}, weights, seed)
        by_builder = Counter(name for name, _ in drawn)
        with Journal(made) as rows:
            write_jsonl(preferences, (rows[id] for _, id in drawn))
        funnel |= {f"in the mix ({name})": by_builder[name] for name in weights} | {KEPT: len(drawn)}
    return PairsSummary(funnel, hygiene(read_jsonl(preferences)))


def mix(ids: Mapping[str, Sequence[str]], weights: Mapping[str, float], seed: int) -> list[tuple[str, str]]:
    """As many (name, id) as there can be whose shares by name are as `weights`, none twice; drawn and shuffled by `seed`.

    Of 300 and 100 rows at weights 1 and 1, 100 and 100 are taken. There are ids for every weight, and all weights are above 0.
    """
    counts = shares({name: len(of) for name, of in ids.items()}, weights)
    mixed: list[tuple[str, str]] = []
    for name, count in sorted(counts.items()):
        mixed += [(name, id) for id in derive_rng(seed, "mix", name).sample(sorted(ids[name]), count)]
    derive_rng(seed, "mix").shuffle(mixed)
    return mixed


def _nothing_left(out: Output, prompts: int, dropped: Path, alone: bool) -> str:
    """Why a builder has no preference left, by the commonest reason."""
    (commonest, count), *_ = out.counts.most_common(1) or [("there was nothing to make pairs from", 0)]
    rows = (row for row in read_jsonl(dropped) if row["builder"] == out.builder and row["reason"] == commonest)
    example = next((row["error"] for row in rows if row.get("error")), "")
    by = "" if alone else f" by `{out.builder}`"
    of = f", out of {prompts} prompts" if out.builder in SAMPLING else ""
    return (
        f"phase 2 left no preference to train on{by}{of}; the commonest reason is '{commonest}' "
        f"({count} times{f', e.g. {example}' if example else ''}); see {dropped}"
    )
