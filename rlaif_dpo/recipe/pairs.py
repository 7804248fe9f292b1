"""The section of a recipe that makes preference pairs: which builders, in which shares, from what."""

import math
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from rlaif_dpo.recipe.section import Section, Share, conflict


class Builders(Section):
    """Who makes the preference pairs, by their shares of the rows; see docs/pairs.md."""

    model_config = ConfigDict(serialize_by_alias=True)  # `import` is a word of Python's

    judged: NonNegativeFloat = 1.0
    """Answers of the SFT model, compared by the judge: soft labels. 0 where others are named and it is not."""
    revision_over_draft: NonNegativeFloat = 0.0
    """Phase 1's revised answer over its draft; no judge."""
    rlcd: NonNegativeFloat = 0.0
    """An answer that was asked to keep a principle over one that was asked to break it; no judge."""
    rbr_ladder: NonNegativeFloat = 0.0
    """Answers of the SFT model in the order of their scores under `judge.rulebook`, the best over the worst."""
    meta_judged: NonNegativeFloat = 0.0
    """Two judgments of the policy on one question, as the policy itself compares them: they train it to judge."""
    human: NonNegativeFloat = 0.0
    """People's preferences, from `pairs.human`."""
    import_: Annotated[NonNegativeFloat, Field(alias="import")] = 0.0
    """A preference set, from `pairs.import`."""

    @model_validator(mode="before")
    @classmethod
    def _others_alone(cls, given: Any) -> Any:
        return {"judged": 0.0} | given if isinstance(given, dict) and given else given

    @property
    def weights(self) -> dict[str, float]:
        """The builders that are used, with their weights."""
        return {name: weight for name, weight in self.model_dump().items() if weight}

    @property
    def samples(self) -> bool:
        """Whether candidates are sampled from the plain prompts."""
        return bool(self.judged or self.rbr_ladder)


class HumanPairs(Section):
    """People's preferences, as Bai et al. mixed them in for helpfulness; see docs/pairs.md."""

    source: str | None = None
    """A file or Hub dataset with `prompt`, `chosen` and `rejected`, or with `prompt`, `a`, `b` and `label`; null: none."""
    split: str = "train"
    """The split of a Hub dataset."""
    reliability: Annotated[float, Field(gt=0.5, le=1)] = 1.0
    """The p of a pair whose labels all agree: how often two people agree on such a pair."""


class ImportedPairs(Section):
    """Any preference set: texts, messages or whole conversations, with labels of its own where it has some."""

    source: str | None = None
    """A JSONL, JSONL.gz, CSV or Parquet file, or a Hub dataset id; null: none."""
    split: str = "train"
    """The split of a Hub dataset."""
    column: str = "prompt"
    """The column with the prompt; it may be missing where `chosen` and `rejected` are whole conversations."""
    chosen_column: str = "chosen"
    """The column with the better answer."""
    rejected_column: str = "rejected"
    """The column with the worse one."""
    p_column: str | None = None
    """A column with P(the first is better); null: every label is hard, p = 1."""
    score_columns: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    """Two columns with the scores of chosen and rejected, in place of p: p is the logistic function of their difference."""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(self.score_columns) == 1:
            raise conflict("score_columns", "it needs two columns: the score of the chosen answer and that of the rejected one")
        if self.score_columns and self.p_column is not None:
            raise conflict("score_columns", "`p_column` and `score_columns` both give p; keep one")
        return self


class Pairs(Section):
    """Phase 2: preference pairs, by default candidates from the SFT model that the judge compares."""

    model_config = ConfigDict(serialize_by_alias=True)

    builders: Builders = Builders()
    """The shares of the builders."""
    candidates: Annotated[int, Field(ge=2)] = 4
    """Answers sampled per prompt."""
    temperature: PositiveFloat = 1.0
    """Of the candidates."""
    max_new_tokens: PositiveInt = 256
    """The longest candidate."""
    per_prompt: PositiveInt = 2
    """Pairs per prompt, no candidate in two of them while there are enough."""
    length_tier: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """The shortest answer within this share of the scores' range of the best, over the longest near the worst; null: drawn."""
    max_similarity: Share = 0.98
    """Drop a pair whose texts are more alike than this (1 = equal)."""
    min_confidence: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """Drop a pair whose p is below this."""
    human: HumanPairs = HumanPairs()
    import_: Annotated[ImportedPairs, Field(alias="import")] = ImportedPairs()

    @model_validator(mode="before")
    @classmethod
    def _fill_builders(cls, given: Any) -> Any:
        """Where no builder is named: `judged`, and beside it people's and imported pairs where there are any, all alike."""
        if not isinstance(given, dict) or given.get("builders"):
            return given
        sets = {name: given.get(name) for name in ("human", "import")}
        named = [name for name, of in sets.items() if (of.get("source") if isinstance(of, dict) else getattr(of, "source", None))]
        return given | {"builders": dict.fromkeys(("judged", *named), 1.0)} if named else given

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.builders.samples and self.per_prompt > (most := math.comb(self.candidates, 2)):
            raise conflict("per_prompt", f"{self.per_prompt} is more than the {most} that {self.candidates} candidates can make")
        weights = self.builders.weights
        if self.length_tier is not None and (self.per_prompt > 1 or "judged" not in weights):
            raise conflict("length_tier", "it makes one judged pair of a prompt; set `per_prompt: 1`, and give `judged` a weight")
        if not weights:
            raise conflict("builders", "all weights are 0: there would be no pairs")
        for name, source in (("human", self.human.source), ("import", self.import_.source)):
            if name in weights and source is None:
                raise conflict("builders", f"`{name}` needs `pairs.{name}.source`: the set to read")
            if source is not None and name not in weights:
                raise conflict("builders", f"nobody reads `pairs.{name}.source`; give `{name}` a weight, or take the source out")
        return self
