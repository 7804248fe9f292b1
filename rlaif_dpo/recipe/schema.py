"""The recipe: every setting of a run, typed and strict. The attribute docstrings are the help."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlaif_dpo.recipe.iteration import Iteration, Start
from rlaif_dpo.recipe.pairs import Pairs
from rlaif_dpo.recipe.section import Section, Share, conflict
from rlaif_dpo.recipe.training import Dpo, Grpo, Lora, Ppo, Reward, Sft

WORLD = "world"
"""The fact that names the world a prompt comes from, whose ground truth then checks the answers."""


AuditCheck = Literal[
    "accuracy", "same", "padded", "reordered", "empty", "injected", "position", "length", "own", "layout", "mass", "verdicts",
    "stability",
]  # fmt: skip
"""The checks of a judge's audit; see docs/audit.md."""


Tracker = Literal["tensorboard", "trackio", "wandb"]


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
    engine: Literal["transformers", "vllm"] = "transformers"
    """What drafts, answers and judges with the model; `vllm` needs its package and fills the card. See docs/speed.md."""
    max_batch_tokens: PositiveInt = 16384
    """Tokens (prompt and room for the answer) generated at once; `vllm` decides that by itself."""

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "vllm" and self.quantization == "nf4":
            raise conflict(
                "engine", "`vllm` was not tried with a base in 4 bits; set `quantization: none`, or `engine: transformers`"
            )
        return self


class PromptSource(Section):
    """Where prompts come from and how many each phase gets; the phases share no prompt."""

    source: str = "sandbox"
    """A JSONL, JSONL.gz, CSV or Parquet file, a Hub dataset id, or `sandbox`. Of rows with `keep` those where it is yes."""
    split: str = "train"
    """The split of a Hub dataset."""
    column: str = "prompt"
    """The column with the prompt: a string or a list of messages."""
    paired_column: str | None = None
    """A second column; the prompt is then the conversation that both share (as in preference sets of `chosen` and `rejected`)."""
    tags_column: str | None = None
    """A column with the prompt's tags, for principles with `applies_to`."""
    facts_columns: tuple[str, ...] = ()
    """Columns with what is known of the prompt (the expected answer, unit tests), for the checks of a rulebook."""
    revise: PositiveInt = 240
    """Prompts for phase 1, critique and revision."""
    pairs: PositiveInt = 240
    """Prompts for phase 2, candidates and preferences."""
    evaluate: PositiveInt = 200
    """Held-out prompts for the evidence."""
    twin_threshold: Annotated[float, Field(ge=0.5, le=1)] | None = None
    """Hold out no prompt as similar as this to one in training, e.g. 0.6; null: openings alone count. See docs/prompts.md."""

    @model_validator(mode="after")
    def _check_facts(self) -> Self:
        if WORLD in self.facts_columns:
            raise conflict("facts_columns", f"`{WORLD}` is what the sandbox marks its own prompts with; rename the column")
        return self


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
    drafter: str = "same"
    """`same`, the path of another local model, or a name in `endpoints`: who writes the first draft."""
    critic: str = "same"
    """`same`, the path of another local model, or a name in `endpoints`: who criticises and revises."""
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


class Price(Section):
    """What an endpoint charges, in US dollars per million tokens."""

    input: NonNegativeFloat
    """Prompt tokens."""
    output: NonNegativeFloat
    """Completion tokens, reasoning included."""
    cached_input: NonNegativeFloat | None = None
    """Prompt tokens that the server had cached; null: as `input`."""


class Endpoint(Section):
    """An OpenAI-compatible server. The roles (`judge.model`, `revise.critic`, ...) call it by its name in `endpoints`."""

    base_url: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """E.g. `http://localhost:8000/v1`; or a list of servers with the same model, which share the load."""
    model: str
    """The model's name there."""
    api_key_env: str | None = None
    """The environment variable that holds the key; null: no key. The key itself never stands in a file."""
    concurrency: PositiveInt = 32
    """The most requests in flight at a server; fewer while it pushes back."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit of a server on requests."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit of a server on tokens, prompt and completion."""
    timeout_s: PositiveFloat = 120.0
    """For one request."""
    max_attempts: PositiveInt = 6
    """Requests sent for one row before it counts as failed."""
    votes: PositiveInt = 8
    """Sampled verdicts per order where the server gives no log-probabilities; 1 makes the label `hard`."""
    context_length: PositiveInt = 32768
    """The most tokens prompt and completion may have together."""
    price: Price | None = None
    """null: unknown, and the report says so."""
    max_usd: PositiveFloat | None = None
    """Stop softly, keeping everything, when so much is spent."""
    max_calls: PositiveInt | None = None
    """The same for requests."""
    max_tokens: PositiveInt | None = None
    """The same for tokens."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        for url in map(urlsplit, self.urls):
            if url.scheme not in ("http", "https") or not url.netloc or "@" in url.netloc:
                raise conflict("base_url", "it must look like https://host/v1, without a user name or a key in it")
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise conflict("base_url", "it names a server twice")
        if self.max_usd is not None and self.price is None:
            raise conflict("max_usd", "it needs `price`, which turns tokens into dollars")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """Of its servers. The first one's stands for all: what is known by it stays known when others are added."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url

    @property
    def most_at_once(self) -> int:
        """Requests in flight at all servers together."""
        return self.concurrency * len(self.urls)


class Judging(Section):
    """How one judge judges."""

    kind: Literal["pairwise", "score", "additive", "rules", "human"] = "pairwise"
    """Compare under each principle, give each answer 1 to 10, or 0 to 5 points in words, use `rulebook`, or `labels`."""
    model: str = "same"
    """`same` (the model without its adapter), `policy` (the SFT model), another local model's path, or a name in `endpoints`."""
    template: str = "principle"
    """`principle`, `rlaif` or `cai`, or a text file with the prompt of a comparison."""
    reasoning: Literal["direct", "cot"] = "direct"
    """`cot` writes a rationale first, then scores the options in a new turn."""
    rationale_tokens: PositiveInt = 256
    """The longest rationale."""
    rationales: PositiveInt = 1
    """Rationales per order, or reviews of an `additive` judge, that are averaged: one is greedy, several are sampled."""
    saturation: Literal["none", "clamp", "average_n", "temperature", "auto"] = "none"
    """What is done to labels near 0 and 1: `average_n` trusts in several `rationales` alone, `auto` is set by the audit."""
    clamp: tuple[Share, Share] = (0.4, 0.6)
    """The range of p with `saturation: clamp`, the same above and below .5."""
    temperature: PositiveFloat = 1.0
    """Divides the logit of p with `saturation: temperature`."""
    rulebook: str | None = None
    """A shipped rulebook's name or a file: the labeler of `rules`; for the other kinds a veto on their labels."""
    rulebook_asks: bool = True
    """Put the rulebook's questions to `model`; false: its checks alone decide."""
    labels: str | None = None
    """A CSV or JSONL file of human labels, for `human`."""

    @model_validator(mode="after")
    def _check_judging(self) -> Self:
        if abs(sum(self.clamp) - 1) > 1e-9 or self.clamp[0] > self.clamp[1]:
            raise conflict("clamp", f"{list(self.clamp)} is not the same above and below .5; give e.g. [0.4, 0.6]")
        if self.reasoning == "cot" and self.kind != "pairwise":
            raise conflict("reasoning", f"`cot` is for `kind: pairwise`, not for {self.kind}")
        if self.template != "principle" and self.kind != "pairwise":
            raise conflict("template", f"a template is for `kind: pairwise`, not for {self.kind}")
        if self.rationales > 1 and self.reasoning != "cot" and self.kind != "additive":
            raise conflict("rationales", f"{self.rationales} rationales need `reasoning: cot`")
        if self.saturation == "average_n" and self.rationales == 1:
            raise conflict("saturation", "`average_n` needs `rationales` of 2 or more")
        if (self.kind == "human") != (self.labels is not None):
            raise conflict("labels", "`kind: human` and a file of labels go together")
        if self.kind == "rules" and self.rulebook is None:
            raise conflict("rulebook", "`kind: rules` needs a rulebook, e.g. `refusals`")
        return self


class Member(Judging):
    """A judge of a committee."""

    weight: PositiveFloat = 1.0
    """In the mean of the logits."""


class JudgeSettings(Judging):
    """Who labels the pairs."""

    principles: Literal["all", "sample"] | PositiveInt = "all"
    """`all` pools every principle by weight, a number samples that many per pair, `sample` is one."""
    orders: Literal["logit", "probability"] = "logit"
    """How the two orders are averaged."""
    min_mass: Share = 0.5
    """Below this share of probability on the options, the judgment counts as not had."""
    committee: tuple[Member, ...] = ()
    """Several judges instead of one; one whose two orders disagree abstains."""
    gold: str | None = None
    """A file of (prompt, a, b, label) to audit the judge with; null: planted probes, and the sandbox's ground truth."""
    audit_pairs: PositiveInt = 200
    """Comparisons in the audit, at most: half of them pairs, half planted probes."""
    accept: tuple[AuditCheck, ...] = ()
    """Names of failed audit checks to go on with all the same; the report says so."""


class ExternalSuite(Section):
    """A suite of somebody else's: where it is and which column is what."""

    name: str
    """What the results call it."""
    source: str
    """A JSONL, JSONL.gz, CSV or Parquet file, or a Hub dataset id."""
    split: str = "train"
    """The split of a Hub dataset."""
    column: str = "prompt"
    """The column with the prompt: a string or a list of messages."""
    category_column: str | None = None
    """The column with the prompt's category, for the results."""
    expected: Literal["refuse", "comply"] = "refuse"
    """What a good answer does, but for the prompts of `otherwise`."""
    otherwise: tuple[str, ...] = ()
    """Values of `expected_column`, `*` standing for anything, with which the other is expected."""
    expected_column: str | None = None
    """The column that `otherwise` is about; null: `category_column`."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.otherwise and self.expected_column is None and self.category_column is None:
            raise conflict("otherwise", "it needs `expected_column` or `category_column`, whose values it names")
        if WORLD in (self.category_column, self.expected_column):
            raise conflict("name", f"`{WORLD}` is what the sandbox marks its own prompts with; rename the column")
        return self


class Evaluate(Section):
    """The evidence."""

    temperature: NonNegativeFloat = 1.0
    """Of the evaluated answers."""
    max_new_tokens: PositiveInt = 256
    """The longest evaluated answer."""
    bootstrap: PositiveInt = 2000
    """Resamples behind each 95 % interval."""
    suites: tuple[str, ...] = ()
    """Behaviour suites: `dangerous`, `frank`, `privacy`, `sycophancy`, `uncertainty`, or JSONL files; see docs/suites.md."""
    external: tuple[ExternalSuite, ...] = ()
    """Suites of others, such as XSTest."""
    suites_asked: PositiveInt | None = None
    """Prompts of each suite, at most, the same in every run; pairs stay together. null: all."""
    system_prompt: bool = True
    """Ask the suites again with the constitution as the system prompt: what shows without it is in the weights."""
    refusal_judge: str | None = None
    """`same`, a local model or a name in `endpoints`: decides which refusals the rules are not sure of; null: the rules."""


class Recipe(Section):
    """One run, start to end."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The run's folder under `runs/`: letters, digits, `.`, `_` and `-`."""
    seed: int = 0
    """Every random choice derives from it."""
    rounds: Annotated[int, Field(ge=1, le=5)] = 1
    """How often all of it is done, each time from the policy of the time before, on fresh prompts; see docs/rounds.md."""
    round: PositiveInt | None = None
    """Which of the `rounds` this is: set in the recipe that each round keeps. null: all of them."""
    constitution: str = "telehealth"
    """A shipped constitution's name or a file."""
    model: Model = Model()
    endpoints: dict[str, Endpoint] = {}  # noqa: RUF012 - pydantic copies defaults
    """Servers by the name that roles call them by."""
    prompts: PromptSource = PromptSource()
    start: Start = Start()
    revise: Revise = Revise()
    lora: Lora = Lora()
    sft: Sft = Sft()
    pairs: Pairs = Pairs()
    judge: JudgeSettings = JudgeSettings()
    optimizer: Literal["dpo", "ppo", "grpo", "rloo"] = "dpo"
    """`dpo` learns from preferences, `ppo` from a `reward` model of them, `grpo` and `rloo` from `grpo.rewards`."""
    dpo: Dpo = Dpo()
    reward: Reward = Reward()
    ppo: Ppo = Ppo()
    grpo: Grpo = Grpo()
    evaluate: Evaluate = Evaluate()
    iteration: Iteration = Iteration()
    trackers: tuple[Tracker, ...] = ()
    """Where SFT and DPO report too while they train; `metrics.jsonl` is always written."""

    @model_validator(mode="after")
    def _check_endpoint_names(self) -> Self:
        if taken := {"same", "policy", "sandbox"} & self.endpoints.keys():
            raise conflict("endpoints", f"`{taken.pop()}` already means a model; give the endpoint another name")
        return self

    @property
    def iterates(self) -> bool:
        """Whether this is several rounds, and not one of them."""
        return self.rounds > 1 and self.round is None

    @model_validator(mode="after")
    def _check_rounds(self) -> Self:
        if self.round is not None and self.round > self.rounds:
            raise conflict("round", f"{self.round} is more than the {self.rounds} `rounds`")
        if self.iteration.judge == "policy":
            raise conflict("iteration", "`judge: policy` would let each policy decide about itself; name a judge that stays")
        if self.iteration.judge is not None and self.judge.committee:
            raise conflict("iteration", "`judge` takes the place of `judge.model`, and a committee has several")
        without_revisions = not self.start.revise or (self.iterates and self.iteration.sft == "first")
        if without_revisions and self.pairs.builders.revision_over_draft:
            raise conflict("pairs", "`builders.revision_over_draft` needs the revisions of phase 1, and not every round has one")
        goes_on = self.start.adapter is not None or (self.iterates and self.iteration.sft == "every")
        if goes_on and self.sft.loss == "constrained":
            raise conflict("sft", "`loss: constrained` holds answers near the model without an adapter, and SFT goes on with one")
        return self

    @model_validator(mode="after")
    def _check_ladder(self) -> Self:
        if self.pairs.builders.rbr_ladder and self.judge.rulebook is None:
            raise conflict("pairs", "`builders.rbr_ladder` needs a rulebook, e.g. `judge.rulebook: refusals`")
        if self.pairs.builders.rbr_ladder and self.judge.committee:
            raise conflict("pairs", "`builders.rbr_ladder` ranks by the rulebook of one judge and knows no committee")
        return self

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        for name, section in (("dpo", self.dpo.looks), ("ppo", self.ppo), ("grpo", self.grpo)):
            if section.held_out_judge == "policy":
                raise conflict(name, "`held_out_judge: policy` would let the policy decide about itself; name another judge")
            if section.held_out_judge is not None and self.model.engine == "vllm":
                raise conflict(
                    name, "`held_out_judge` looks on while the model trains, and `engine: vllm` fills the card; keep one"
                )
        return self

    @model_validator(mode="after")
    def _check_meta(self) -> Self:
        if self.pairs.length_tier is not None and (self.start.anchor is not None or self.iteration.anchor_rejected):
            raise conflict("pairs", "`length_tier` chooses both answers by their scores, and an anchor gives one; keep one")
        meta, judge = self.pairs.builders.meta_judged > 0, self.judge
        if self.iteration.judge_rounds is not None and not meta:
            raise conflict("iteration", "`judge_rounds` is about `pairs.builders.meta_judged`, which has no weight")
        if not meta:
            return self
        if not self.pairs.builders.judged:
            raise conflict("pairs", "`builders.meta_judged` compares judgments of `judged` pairs; give `judged` a weight, too")
        if judge.committee or judge.kind not in ("pairwise", "additive"):
            raise conflict("pairs", "`builders.meta_judged` needs one judge of `kind: additive` or `pairwise`")
        if judge.model != "policy":
            raise conflict("pairs", "`builders.meta_judged` trains the policy to judge: set `judge.model: policy`")
        if (judge.kind == "additive" or judge.reasoning == "cot") and judge.rationales == 1:
            raise conflict("pairs", "`builders.meta_judged` needs several judgments of a reply: set e.g. `judge.rationales: 3`")
        if self.optimizer != "dpo":
            raise conflict("pairs", "`builders.meta_judged` needs `optimizer: dpo`: a reward model scores answers, not judgments")
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if self.optimizer in ("grpo", "rloo"):
            if self.model.engine == "vllm" and (self.grpo.rewards.judge or self.grpo.rewards.rules):
                told = f"`engine: vllm` cannot judge while {self.optimizer} trains on the same card; set `engine: transformers`"
                raise conflict("model", told)
            if self.grpo.rewards.rules and self.judge.rulebook is None:
                raise conflict("grpo", "`rewards.rules` needs a rulebook, e.g. `judge.rulebook: refusals`")
            kinds = {member.kind for member in self.judge.committee} or {self.judge.kind}
            if self.grpo.rewards.judge and "human" in kinds:
                raise conflict("grpo", "`rewards.judge` asks the judge about every sampled answer; people cannot be asked")
        return self
