"""The recipe: every setting of a run, typed and strict. The attribute docstrings are the help."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Strict and frozen: an unknown key is an error, a value is of its type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False, str_min_length=1
    )


def _conflict(key: str, message: str) -> PydanticCustomError:
    """The error of a `key` whose value is of its type but cannot stand beside its neighbours."""
    return PydanticCustomError("conflict", "{message}", {"key": key, "message": message})


class Model(Section):
    """The model to align. It drafts, and criticises and judges too unless another is named for that."""

    path: str = "sandbox"
    """A folder, a Hub id, or `sandbox` (the tiny model that ships with the package)."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` loads the base in 4 bits (double quantisation)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type; `auto` takes bfloat16 from compute capability 8.0, float16 below it, float32 on a CPU."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its authors."""
    max_batch_tokens: PositiveInt = 16384
    """Tokens (prompt and room for the answer) generated at once."""


class PromptSource(Section):
    """Where prompts come from and how many each phase gets; the phases share no prompt."""

    source: str = "sandbox"
    """A JSONL, JSONL.gz, CSV or Parquet file, a Hub dataset id, or `sandbox`."""
    split: str = "train"
    """The split of a Hub dataset."""
    column: str = "prompt"
    """The column with the prompt: a string or a list of messages."""
    paired_column: str | None = None
    """A second column; the prompt is then the conversation that both share (as in preference sets of `chosen` and `rejected`)."""
    tags_column: str | None = None
    """A column with the prompt's tags, for principles with `applies_to`."""
    revise: PositiveInt = 240
    """Prompts for phase 1, critique and revision."""
    pairs: PositiveInt = 240
    """Prompts for phase 2, candidates and preferences."""
    evaluate: PositiveInt = 200
    """Held-out prompts for the evidence."""


class HelpfulnessMix(Section):
    """Plain question-answer rows mixed into SFT so that help is not unlearned."""

    source: str | None = None
    """A file or Hub dataset with a `prompt` and a `completion` column; null: the model's own answers that needed no revision."""
    rows: NonNegativeInt = 0
    """How many rows to mix in."""


class Revise(Section):
    """Phase 1: draft, then critique and revise (SL-CAI)."""

    rounds: PositiveInt = 4
    """Critique-revision steps per prompt; each samples one principle."""
    critic: str = "same"
    """`same`, or the path of another local model that criticises and revises."""
    temperature: NonNegativeFloat = 1.0
    """For drafts, critiques and revisions."""
    max_new_tokens: PositiveInt = 256
    """The longest draft, critique or revision."""
    few_shot: str | None = None
    """Example dialogues put before each critique request: `critique-revision` ships; or a JSON file. See docs/revising.md."""
    stop_when_clean: bool = False
    """End a prompt's loop at the first critique that finds no problem."""
    keep_revisions: Literal["last", "all"] = "last"
    """Train on the last revision only, or on those of every round."""
    max_repetition: Share = 0.5
    """Drop a revision whose share of repeated 4-grams is higher."""
    drop_unchanged: bool = True
    """Drop a prompt whose critiques found a fault and whose revisions changed nothing."""
    helpfulness: HelpfulnessMix = HelpfulnessMix()


class Lora(Section):
    """The adapter."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveInt = 32
    """Scale; the adapter's output is multiplied by alpha / r."""
    dropout: Share = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Which linear layers get an adapter."""


class Training(Section):
    """What SFT and DPO have in common."""

    epochs: PositiveInt = 1
    """Passes over the rows."""
    lr: PositiveFloat = 2e-5
    """Peak learning rate."""
    batch_size: PositiveInt = 16
    """Rows per optimiser step."""
    micro_batch_size: PositiveInt | None = None
    """Rows per forward pass; the rest is accumulated. null: the whole batch."""
    max_length: PositiveInt = 1024
    """Tokens of prompt and completion; longer rows are counted and dropped, never cut in silence."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up."""
    gradient_checkpointing: bool = False
    """Trade time for memory."""
    save_steps: PositiveInt = 50
    """A checkpoint every so many steps; a stopped run resumes from the last one."""

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise _conflict("micro_batch_size", f"{self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class Sft(Training):
    """Supervised fine-tuning on the revisions."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate."""


class Pairs(Section):
    """Phase 2: candidates from the SFT model, compared by the judge."""

    candidates: Annotated[int, Field(ge=2)] = 4
    """Answers sampled per prompt."""
    temperature: PositiveFloat = 1.0
    """Of the candidates."""
    max_new_tokens: PositiveInt = 256
    """The longest candidate."""
    per_prompt: PositiveInt = 2
    """Pairs compared per prompt, no candidate in two of them while there are enough."""
    max_similarity: Share = 0.98
    """Drop a pair whose texts are more alike than this (1 = equal)."""
    min_confidence: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """Drop a pair whose p is below this."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.per_prompt > (most := math.comb(self.candidates, 2)):
            raise _conflict("per_prompt", f"{self.per_prompt} is more than the {most} that {self.candidates} candidates can make")
        return self


class JudgeSettings(Section):
    """Who labels the pairs."""

    model: str = "same"
    """`same` (the model without its adapter), or the path of another local model."""
    principles: Literal["all", "sample"] | PositiveInt = "all"
    """`all` pools every principle by weight, a number samples that many per pair, `sample` is one."""
    orders: Literal["logit", "probability"] = "logit"
    """How the two orders are averaged."""
    min_mass: Share = 0.5
    """Below this share of probability on the options, the judgment counts as not had."""


class Dpo(Training):
    """Direct preference optimisation from the SFT adapter."""

    loss: Literal["soft", "gdpo", "rdpo", "hard", "ipo"] = "soft"
    """`soft` is cross-entropy to p; see docs/losses.md for the others."""
    lr: PositiveFloat = 5e-6
    """Peak learning rate."""
    beta: PositiveFloat = 0.1
    """How much a log-ratio counts; higher stays closer to the reference."""
    label_noise: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """The flip rate that `rdpo` corrects for."""
    nll: NonNegativeFloat = 0.0
    """Weight of the per-token negative log-likelihood of the chosen answer."""


class Evaluate(Section):
    """The evidence."""

    temperature: NonNegativeFloat = 1.0
    """Of the evaluated answers."""
    max_new_tokens: PositiveInt = 256
    """The longest evaluated answer."""
    bootstrap: PositiveInt = 2000
    """Resamples behind each 95 % interval."""


class Recipe(Section):
    """One run, start to end."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The run's folder under `runs/`: letters, digits, `.`, `_` and `-`."""
    seed: int = 0
    """Every random choice derives from it."""
    constitution: str = "telehealth"
    """A shipped constitution's name or a file."""
    model: Model = Model()
    prompts: PromptSource = PromptSource()
    revise: Revise = Revise()
    lora: Lora = Lora()
    sft: Sft = Sft()
    pairs: Pairs = Pairs()
    judge: JudgeSettings = JudgeSettings()
    dpo: Dpo = Dpo()
    evaluate: Evaluate = Evaluate()
