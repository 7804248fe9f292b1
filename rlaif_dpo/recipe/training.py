"""The sections of a recipe that train: the adapter, SFT, DPO, the reward model, PPO, GRPO and RLOO."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlaif_dpo.recipe.section import Section, Share, conflict


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


class Optimisation(Section):
    """What all training has in common."""

    lr: PositiveFloat = 2e-5
    """Peak learning rate."""
    batch_size: PositiveInt = 16
    """Rows per optimiser step."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Rows per forward pass; the rest is accumulated. `auto`: as many as fit, found by trial. null: the whole batch."""
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
        if self.batch_size % self.rows_at_once:
            raise conflict("micro_batch_size", f"{self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self

    @property
    def rows_at_once(self) -> int:
        """Rows per forward pass; with `auto`, as long as nothing was tried, the whole batch."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else self.batch_size


class Training(Optimisation):
    """What training on the rows of a file has in common."""

    epochs: PositiveInt = 1
    """Passes over the rows."""


SftLoss = Literal["nll", "constrained"]


class Recovery(Section):
    """Safety-recovery examples: an answer that began as its careless draft did, and is ended well; see docs/depth.md."""

    share: Share = 0.0
    """Share of the revised rows that begin with the first tokens of their draft, which are not learned."""
    max_prefix: PositiveInt = 100
    """The most tokens of the draft; how many is drawn anew for each row."""
    tags: tuple[str, ...] = ()
    """Only rows whose prompt has such a tag, e.g. `dangerous`; none: all."""


class Sft(Training):
    """Supervised fine-tuning on the revisions."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate."""
    loss: SftLoss = "nll"
    """`constrained` holds the first tokens of answers near the model's own: for fine-tuning a model that is aligned already."""
    recovery: Recovery = Recovery()


class Looks(Section):
    """Tripwires on DPO, which samples nothing by itself: answers of the policy, looked at a few times. See docs/tripwires.md."""

    times: NonNegativeInt = 4
    """How often, evenly over the training; 0: never."""
    answers: Annotated[int, Field(ge=2)] = 32
    """How many each time, and of the SFT model before."""
    temperature: PositiveFloat = 1.0
    """Of the answers."""
    max_new_tokens: PositiveInt = 256
    """The longest answer."""
    max_kl: PositiveFloat = 50.0
    """The tripwire on an answer's mean KL to the SFT model, in nats; half of it warns."""
    tripwires: Literal["stop", "warn"] = "stop"
    """What a tripwire does when it is far out: it ends the training, or only says so."""
    held_out_judge: str | None = None
    """`same`, a local model or a name in `endpoints`: does it like what the implicit reward likes? null: none."""

    @property
    def held_out_answers(self) -> int:
        """All of them are compared."""
        return self.answers


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
    looks: Looks = Looks()


class Reward(Training):
    """The reward model: Bradley-Terry on the judge's probabilities, from the SFT adapter, with a scalar head."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate."""
    margin: NonNegativeFloat = 0.0
    """The score gap beyond what p asks for; see docs/ppo.md."""
    centring: NonNegativeFloat = 0.01
    """Weight of the penalty that keeps the scores of a pair around 0."""


class Rollouts(Optimisation):
    """What learning from sampled answers has in common: PPO, GRPO and RLOO start from the SFT adapter; it is their reference."""

    updates: PositiveInt = 100
    """How often answers are sampled and learned from."""
    batch_size: PositiveInt = 64
    """Answers sampled per update."""
    lr: PositiveFloat = 2e-5
    """Peak learning rate of the policy."""
    save_steps: PositiveInt = 10
    """A checkpoint every so many updates; a stopped run resumes from the last one."""
    temperature: PositiveFloat = 1.0
    """Of the sampled answers; policy and reference are compared at it."""
    max_new_tokens: PositiveInt = 256
    """The longest sampled answer."""
    baseline_samples: Annotated[int, Field(ge=2)] = 256
    """Answers of the SFT model that set the score's zero and what the tripwires compare with."""
    no_eos_penalty: NonNegativeFloat = 1.0
    """Taken from the score of an answer that was cut at `max_new_tokens`."""
    max_kl: PositiveFloat = 50.0
    """The tripwire on an answer's mean KL to the reference, in nats; half of it warns."""
    tripwires: Literal["stop", "warn"] = "stop"
    """What a tripwire does when it is far out; the run stops before it learns from such answers, or only says so."""
    held_out_judge: str | None = None
    """`same`, a local model or a name in `endpoints`: does it like what the reward likes? It rewards nothing. null: none."""
    held_out_answers: Annotated[int, Field(ge=2)] = 32
    """How many answers of an update the held-out judge compares with answers of the SFT model, at most."""


class Ppo(Rollouts):
    """Proximal policy optimisation against a reward; each answer of an update is to another prompt."""

    minibatch_size: PositiveInt = 16
    """Answers per optimiser step."""
    micro_batch_size: PositiveInt | None = None
    """Answers per forward pass; the rest is accumulated. null: the whole minibatch."""
    epochs: PositiveInt = 4
    """Passes over the answers of an update."""
    value_lr: PositiveFloat = 1e-4
    """Peak learning rate of the value function."""
    kl_coef: NonNegativeFloat = 0.05
    """Reward lost per nat of KL to the reference; where it starts if `kl_target` is set."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """How KL is estimated at each token; see docs/ppo.md."""
    kl_target: PositiveFloat | None = None
    """Adapt `kl_coef` so that an answer's KL to the reference stays near so many nats; null: `kl_coef` is fixed."""
    gamma: Share = 1.0
    """Discount per token."""
    gae_lambda: Share = 0.95
    """Bias against variance of the advantages; 1 uses the value function as a baseline only."""
    clip: PositiveFloat = 0.2
    """How far an update may move the probability of a token, as a ratio."""
    value_clip: PositiveFloat = 0.2
    """How far an update may move the value of a token."""
    reward_scale: Literal["none", "std"] = "none"
    """`std` divides scores by their standard deviation under the SFT model, too; its mean always becomes 0."""

    @model_validator(mode="after")
    def _check_minibatches(self) -> Self:
        if self.batch_size % self.minibatch_size:
            raise conflict("minibatch_size", f"{self.minibatch_size} does not divide batch_size {self.batch_size}")
        if self.micro_batch_size is not None and self.minibatch_size % self.micro_batch_size:
            raise conflict("micro_batch_size", f"{self.micro_batch_size} does not divide minibatch_size {self.minibatch_size}")
        return self


class Rewards(Section):
    """What an answer earns: a sum of scores, each times its weight; 0 leaves one out."""

    model: NonNegativeFloat = 1.0
    """A reward model of the judge's labels, made in 40-reward."""
    judge: NonNegativeFloat = 0.0
    """The judge itself: its score (`judge.kind: score`), or its log-odds for the answer over one of the SFT model."""
    rules: NonNegativeFloat = 0.0
    """The score of `judge.rulebook`: questions, patterns, facts, programs."""

    @property
    def terms(self) -> str:
        """`1 model + 0.5 rules`."""
        return " + ".join(f"{weight:g} {name}" for name, weight in self.model_dump().items() if weight)


class Grpo(Rollouts):
    """Learning from groups of answers to one prompt that are compared with each other: GRPO and RLOO. See docs/grpo.md."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Answers to a prompt; `batch_size` is a multiple of it."""
    rewards: Rewards = Rewards()
    kl_coef: NonNegativeFloat = 0.05
    """How much a nat of KL to the reference costs; see docs/grpo.md for where it is counted."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation GRPO divides an advantage by; RLOO divides by none."""

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.batch_size % self.group_size:
            raise conflict("group_size", f"{self.group_size} does not divide batch_size {self.batch_size}")
        if not (self.rewards.model or self.rewards.judge or self.rewards.rules):
            raise conflict("rewards", "all weights are 0: nothing would be learned")
        return self
