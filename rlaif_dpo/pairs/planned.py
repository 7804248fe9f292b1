"""What the builders of a recipe will ask for and make, counted before anything is generated."""

from collections.abc import Mapping, Sequence

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.messages import Message
from rlaif_dpo.pairs.contrast import BREAKS, KEEPS, contrasts_of
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.sources import read_rows
from rlaif_dpo.recipe.pairs import HumanPairs, ImportedPairs
from rlaif_dpo.recipe.schema import Recipe


def contrast_prompts(recipe: Recipe, prompts: Sequence[PromptRow], constitution: Constitution) -> list[tuple[Message, ...]]:
    """Every p+ and p- that `rlcd` will put to the model; none where it is not used."""
    if not recipe.pairs.builders.rlcd:
        return []
    contrasts = contrasts_of(prompts, constitution, recipe.pairs.per_prompt, recipe.seed)
    return [contrast.messages(side) for contrast in contrasts for side in (KEEPS, BREAKS)]


def most_preferences(recipe: Recipe, prompts: int) -> int:
    """The rows of phase 2, if none were dropped: of `prompts` prompts, of phase 1's, and of sets from elsewhere.

    Raises:
        UserError: A set that cannot be read.
    """
    pairs = recipe.pairs
    weights = pairs.builders.weights
    sets: dict[str, HumanPairs | ImportedPairs] = {"human": pairs.human, "import": pairs.import_}
    made = dict.fromkeys(weights, prompts * pairs.per_prompt)
    made |= {"revision_over_draft": recipe.prompts.revise, "meta_judged": prompts}
    for name in weights.keys() & sets.keys():
        made[name] = sum(1 for _ in read_rows(str(sets[name].source), sets[name].split))
    return sum(shares({name: made[name] for name in weights}, weights).values())


def shares(rows: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """How many of the `rows` of each builder a mix takes: as many as there can be whose shares are as `weights`."""
    total = min(rows[name] / weight for name, weight in weights.items())
    return {name: int(total * weight + 1e-9) for name, weight in weights.items()}
