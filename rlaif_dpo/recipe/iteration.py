"""The sections of a recipe that let a run begin with a policy, and that say how several rounds go on."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from rlaif_dpo.recipe.section import Section, Share, conflict


class Start(Section):
    """The policy that a run begins with. In a recipe of `rounds`, each later round begins with that of the one before."""

    adapter: str | None = None
    """An adapter's folder: it writes the drafts, and SFT goes on with it, at its own rank; null: the model as it is."""
    revise: bool = True
    """Critique, revision and SFT come first; false: the adapter is the SFT model as it is, and pairs are made of its answers."""
    anchor: str | None = None
    """An adapter's folder: judged pairs have one of its answers as the rejected one; null: two answers of the SFT model."""

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if not self.revise and self.adapter is None:
            raise conflict("revise", "a run without critique, revision and SFT needs an `adapter` to begin with")
        return self


class Iteration(Section):
    """What happens between `rounds`; see docs/rounds.md."""

    sft: Literal["every", "first"] = "every"
    """Which rounds begin with critique, revision and SFT; after `first` the others go from pairs to pairs."""
    judge: str | None = None
    """`same`, a local model or a name in `endpoints`: says which round is better; labels nothing. null: truth, else `judge`."""
    anchor_rejected: bool = False
    """In the judged pairs of later rounds, the rejected answer is one of the first round's SFT model."""
    judge_rounds: PositiveInt | None = None
    """Only so many rounds, the first ones, have pairs of `pairs.builders.meta_judged`; null: every round."""
    min_quality: Share = 0.95
    """Stop after a round whose quality is below this share of that of the round before."""
    min_distinct: Share = 0.5
    """Stop after a round whose answers have less than this share of the distinct bigrams of the first round's SFT model."""
