"""The pairs of a finished run, judged again: what is missing for another constitution, what it costs, and asking for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_dpo.constitution import Constitution, Principle, load_constitution
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row, read_journal
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.build import build_judge, member_settings
from rlaif_dpo.judges.criteria import criterion_of
from rlaif_dpo.judges.journal import judge_all
from rlaif_dpo.pairs.candidates import pairs_of, similarity
from rlaif_dpo.pairs.relabel import Labelling, question_id, verdicts_of
from rlaif_dpo.pipeline.checks import check_keys
from rlaif_dpo.pipeline.cost import Cost, bill_of
from rlaif_dpo.pipeline.directory import RunDirectory, open_run, store_of, unwritable
from rlaif_dpo.pipeline.gate import audited_treatment
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.stage import PROMPTS, SFT_ADAPTER, read_prompts
from rlaif_dpo.pipeline.work import comparing_work
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe import Recipe, load_recipe
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.seeding import content_hash

JUDGED = "30-pairs"
REJUDGED = "rejudged"
"""The folder of a run with verdicts under other wordings, in one of its own for each key of the stage that made the pairs."""

Agree = Callable[[Cost], bool]
"""Whether to go on and ask, from what it costs; asked before anything is bought."""


@dataclass(frozen=True)
class JudgedRun:
    """A run whose pairs are judged.

    Attributes:
        path: Its folder.
        recipe: As it was run.
        constitution: As it was run.
        prompts: Of its pairs.
        labelling: Its pairs and the verdicts on them. Pairs that rules overruled, whatever the constitution, are left out.
        rows: Its judgments by pair.
        overruled: How many pairs are left out.
        kept_in: Where verdicts under other wordings are kept.
    """

    path: Path
    recipe: Recipe
    constitution: Constitution
    prompts: tuple[PromptRow, ...]
    labelling: Labelling
    rows: dict[str, Row]
    overruled: int
    kept_in: Path


def open_judged(path: Path | str) -> JudgedRun:
    """The run at `path`, with every verdict there is on its pairs.

    Raises:
        UserError: There is no run, or its pairs are not judged yet, or there are none.
    """
    directory = open_run(Path(path))
    record = directory.finished(JUDGED)
    if record is None:
        raise UserError(f"{directory.path} has no labels yet; finish it with `rlaif-dpo run {directory.path / 'recipe.yaml'}`")
    recipe, constitution = read_run(directory)
    if recipe.start.anchor is not None:
        raise UserError(f"{directory.path} has judged pairs with answers of an earlier model, which are not judged anew")
    if recipe.pairs.length_tier is not None:
        raise UserError(f"{directory.path} has judged pairs that were chosen by their scores, which are not judged anew")
    if not recipe.pairs.builders.judged:
        made = ", ".join(recipe.pairs.builders.weights)
        raise UserError(f"{directory.path} has no pair that a judge compared: `pairs.builders` were {made}")
    folder, kept_in = directory.folder(JUDGED), directory.path / REJUDGED / record.key
    prompts, rows = read_prompts(directory.path / PROMPTS, "pairs"), read_journal(folder / "judgments.jsonl")
    pairs = pairs_of(prompts, read_journal(folder / "candidates.jsonl"), recipe.pairs, recipe.seed)
    worthy = [pair for pair in pairs if similarity(pair.first.text, pair.second.text) <= recipe.pairs.max_similarity]
    ours = {principle.id: question_id(criterion_of(principle)) for principle in constitution.principles}
    overruled = {id for id, row in rows.items() if any(verdict["principle_id"] not in ours for verdict in row["verdicts"])}
    settings = by_principle(recipe.judge)
    verdicts = verdicts_of(rows.values(), ours) if settings.kind == recipe.judge.kind else {}
    for file in sorted(kept_in.glob("*.jsonl")):
        again = read_journal(file).values()
        verdicts |= verdicts_of(
            again, {verdict["principle_id"]: verdict["principle_id"] for row in again for verdict in row["verdicts"]}
        )
    if not worthy:
        raise UserError(f"{directory.path} has no pair to judge: none of its prompts has two usable answers")
    left = tuple(pair for pair in worthy if pair.id not in overruled or settings.kind != recipe.judge.kind)
    labelling = Labelling(left, settings, recipe.seed, recipe.pairs.min_confidence, verdicts)
    return JudgedRun(directory.path, recipe, constitution, tuple(prompts), labelling, rows, len(worthy) - len(left), kept_in)


def read_run(directory: RunDirectory) -> tuple[Recipe, Constitution]:
    """The recipe and the constitution that a run was made with."""
    return load_recipe(directory.path / "recipe.yaml"), load_constitution(directory.path / "constitution.lock.yaml")


def by_principle(settings: JudgeSettings) -> JudgeSettings:
    """The settings of a judge that compares under single principles: no rules overrule it, and it is neither rules nor people."""
    members = tuple(
        member.model_copy(update={"rulebook": None}) if member.kind != "rules" else member for member in settings.committee
    )
    kind = settings.kind if settings.committee or settings.kind == "score" else "pairwise"
    return settings.model_copy(update={"kind": kind, "rulebook": None, "committee": members})


def labels_follow(run: JudgedRun) -> None:
    """Make sure that the run's labels follow its constitution.

    Raises:
        UserError: People or rules made them.
    """
    if not follows(run.recipe.judge):
        raise UserError(
            f"{run.path}: its labels are by `judge.kind: {run.recipe.judge.kind}`, which does not read the constitution;"
            " name a run whose judge compares under its principles"
        )


def follows(settings: JudgeSettings) -> bool:
    """Whether the labels of these judges depend on the constitution."""
    return any(judge.kind in ("pairwise", "score") for judge in member_settings(settings))


def ask_missing(
    run: JudgedRun, constitutions: Sequence[Constitution], measured: Sequence[Principle], agree: Agree, progress: Progress
) -> bool:
    """Judge what is missing for the labels under `constitutions` and the sides of `measured`; False if `agree` said no.

    The verdicts are kept in the run's folder and added to its `labelling`. `agree` hears of endpoints alone.
    """
    missing = run.labelling.missing(constitutions, measured)
    rows = ask(run, missing, run.kept_in / f"{asked_hash(missing)}.jsonl", agree, progress)
    if rows is not None:
        questions = {criterion.principle_id for comparison in missing for criterion in comparison.criteria}
        run.labelling.verdicts.update(verdicts_of(rows.values(), {question: question for question in questions}))
    return rows is not None


def asked_hash(comparisons: Sequence[Comparison]) -> str:
    """Which pairs are compared under which principles: a name for the file of the answers."""
    return content_hash(" ".join(f"{c.id}:{','.join(of.principle_id for of in c.criteria)}" for c in comparisons))


def price(run: JudgedRun, comparisons: Sequence[Comparison]) -> Cost:
    """What the run's judge is asked about `comparisons`, and what endpoints charge for it; nothing that is local has a bill."""
    works = tuple(comparing_work(run.labelling.settings, comparisons, JUDGED, run.recipe.endpoints))
    bills = [bill_of(name, endpoint, works) for name, endpoint in run.recipe.endpoints.items()]
    return Cost(works, tuple(bill for bill in bills if bill is not None))


def ask(run: JudgedRun, comparisons: Sequence[Comparison], file: Path, agree: Agree, progress: Progress) -> dict[str, Row] | None:
    """The judgment rows of `comparisons` by the run's judge, under single principles, kept in `file`; None if `agree` said no.

    Raises:
        UserError: The run's folder cannot be written, or an endpoint has no key.
    """
    if not comparisons:
        return {}
    cost = price(run, comparisons)
    if cost.bills and not agree(cost):
        return None
    recipe, settings = run.recipe, run.labelling.settings
    check_keys(recipe)
    pool = ModelPool(recipe, progress, store_of(run.path), policy=run.path / SFT_ADAPTER)
    try:
        audited = audited_treatment(run.path)
        judge = build_judge(settings, pool.guests(), recipe.seed, run.prompts, recipe.endpoints, audited)
        return judge_all(comparisons, judge, file, progress)
    except PermissionError as error:
        raise unwritable(run.path, error) from None
    finally:
        pool.close()
