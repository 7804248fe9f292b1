"""What can be refused before anything heavy is imported: the same for `validate`, `plan` and `run`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from rlaif_dpo.constitution import Constitution, lint
from rlaif_dpo.engines.base import NO_VLLM
from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.evaluate.suites import load_suite, load_suites
from rlaif_dpo.judges.build import check_judge
from rlaif_dpo.models.source import model_folder, model_source
from rlaif_dpo.pairs.imported import check_columns
from rlaif_dpo.pipeline import roles
from rlaif_dpo.prompts.sources import SUFFIXES, read_rows
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.revise.few_shot import few_shot_path, shipped_few_shot

TRACKER_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}


def check_recipe(recipe: Recipe, constitution: Constitution) -> None:
    """Refuse a recipe that cannot work, as far as its files show.

    Raises:
        UserError: A constitution with an error, a model that is not there or has no weights, prompts that are not there.
    """
    for finding in lint(constitution):
        if finding.level == "error":
            raise UserError(f"constitution {recipe.constitution}: {finding.sentence}")
    check_judge(recipe.judge)
    _check_engine(recipe)
    for name in sorted(roles.local(recipe, roles.everyone(recipe)) - {recipe.model.path}):
        if (hint := did_you_mean(name, recipe.endpoints)) and not model_folder(name).exists():
            raise UserError(f'There is no endpoint "{name}".{hint}')
        model_source(name)
    model_source(recipe.model.path)
    for key, source in (
        ("prompts.source", recipe.prompts.source),
        ("revise.helpfulness.source", recipe.revise.helpfulness.source),
        ("judge.gold", recipe.judge.gold),
        ("pairs.human.source", recipe.pairs.human.source),
        ("pairs.import.source", recipe.pairs.import_.source),
        *(("evaluate.external.source", suite.source) for suite in recipe.evaluate.external),
    ):
        if source is not None and source.endswith(SUFFIXES) and not Path(source).is_file():
            raise UserError(f"There is no file {source}; check `{key}`.")
    imported = recipe.pairs.import_
    if imported.source is not None and imported.source.endswith(SUFFIXES):
        check_columns(next(read_rows(imported.source), None), imported)
    for name in recipe.evaluate.suites:
        load_suite(name)
    examples = recipe.revise.few_shot
    if examples is not None and not few_shot_path(examples).is_file():
        raise UserError(f"There is no file {examples}; check `revise.few_shot`.{did_you_mean(examples, shipped_few_shot())}")


def _check_engine(recipe: Recipe) -> None:
    """vLLM fills the card, and another model has no room beside it.

    Raises:
        UserError: `model.engine: vllm` and a drafter, critic or judge that is another model on this machine.
    """
    others = sorted(roles.local(recipe, roles.everyone(recipe)))
    if recipe.model.engine == "vllm" and others:
        raise UserError(
            f"`model.engine: vllm` fills the card, and {others[0]} has no room beside it: name the model itself `same`, another "
            "one as a server under `endpoints`, or set model.engine=transformers"
        )


def check_start(recipe: Recipe) -> None:
    """Refuse to begin with an adapter that is not there. The rounds of a plan have none yet.

    Raises:
        UserError: There is none in `start.adapter` or `start.anchor`.
    """
    for key, adapter in (("adapter", recipe.start.adapter), ("anchor", recipe.start.anchor)):
        if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
            raise UserError(f"There is no adapter in {adapter} (adapter_config.json); check `start.{key}`.")


def check_keys(recipe: Recipe) -> None:
    """Refuse to begin without a key that is needed later.

    Raises:
        UserError: An endpoint's environment variable is not set, or holds no key.
    """
    for name, endpoint in roles.endpoints(recipe, roles.everyone(recipe)).items():
        from rlaif_dpo.engines.endpoint.key import read_key

        read_key(endpoint, name)


def check_suites(recipe: Recipe, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Refuse to begin with behaviour suites that could not be asked later; `say` what is dropped from those of others.

    Raises:
        UserError: A row or a column that is not as it must be, or a Hub dataset that cannot be reached.
    """
    _, dropped = load_suites(recipe.evaluate)
    if dropped:
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common())
        say(f"evaluate.external: dropped {dropped.total()} rows ({reasons})")


def check_trackers(recipe: Recipe) -> None:
    """Refuse to begin without the package of a tracker.

    Raises:
        UserError: It is not installed.
    """
    for tracker in recipe.trackers:
        if not any(find_spec(package) for package in TRACKER_PACKAGES[tracker]):
            raise UserError(f"`trackers` names {tracker}, which is not installed: pip install {tracker}")


def check_vllm(recipe: Recipe) -> None:
    """Refuse to begin without vLLM where it is to answer.

    Raises:
        UserError: It is not installed.
    """
    if recipe.model.engine == "vllm" and find_spec("vllm") is None:
        raise UserError(NO_VLLM)


def check_gold(recipe: Recipe, constitution: Constitution) -> None:
    """Refuse to begin with gold that the audit could not read later.

    Raises:
        UserError: A missing column, or a row that cannot be read.
    """
    if recipe.judge.gold is not None:
        from rlaif_dpo.pipeline.audit import gold_pairs

        gold_pairs(recipe, constitution, count=1)
