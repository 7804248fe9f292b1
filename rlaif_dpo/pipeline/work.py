"""What the models of a recipe are asked, counted before anything is spent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.engines.endpoint.tokens import estimate_tokens
from rlaif_dpo.evaluate.refusal_judge import DECLINES, GIVES
from rlaif_dpo.evaluate.suites import SuitePrompt
from rlaif_dpo.evaluate.suites_labels import REQUESTS
from rlaif_dpo.evaluate.suites_run import criterion_of
from rlaif_dpo.judges.additive import additive_messages
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.build import NINE, TEN, member_settings
from rlaif_dpo.judges.criteria import criteria_for
from rlaif_dpo.judges.meta import META, LongestQuestion, longest_question, most_judgments
from rlaif_dpo.judges.rules.ask import Item, proposition_messages
from rlaif_dpo.judges.rules.grade import about_prompts, by_tag, needed
from rlaif_dpo.judges.rules.load import load_rulebook
from rlaif_dpo.judges.score import score_messages
from rlaif_dpo.judges.templates import PRINCIPLE, load_template
from rlaif_dpo.messages import Message
from rlaif_dpo.pipeline.gate import needs_audit
from rlaif_dpo.pipeline.roles import learns_from_labels, onlooker, rewards_by_score
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import Endpoint, JudgeSettings, Recipe
from rlaif_dpo.revise.few_shot import load_few_shot, with_examples
from rlaif_dpo.revise.loop import applicable
from rlaif_dpo.revise.templates import critique_messages, revision_messages

Prompts = Mapping[str, Sequence[PromptRow]]
"""The prompts of a run by phase."""


@dataclass(frozen=True)
class Work:
    """What one model is asked for one purpose.

    Attributes:
        stage: Where.
        what: For which purpose.
        model: The name that the recipe calls it by.
        requests: How many, at most.
        scored: Whether options are scored: one request each with log-probabilities, as many as `votes` without.
        tokens_in: Of their prompts, at most: every reply as long as it may be, four characters a token.
        tokens_out: Of their answers, at most.
        exact: Whether `requests` is their number and not only the most; none of them failing.
    """

    stage: str
    what: str
    model: str
    requests: int
    scored: bool
    tokens_in: int
    tokens_out: int
    exact: bool = False


def work_of(recipe: Recipe, constitution: Constitution, prompts: Prompts, suites: Sequence[SuitePrompt] = ()) -> tuple[Work, ...]:
    """The drafter's, the critic's and the judges' work; `suites` are asked beside the `prompts`.

    Raises:
        UserError: A template, rulebook or example file that cannot be used.
    """
    return (
        *(_revise(recipe, constitution, prompts["revise"]) if recipe.start.revise else ()),
        *_judges(recipe, constitution, prompts),
        *_suites(recipe, suites),
    )


def judge_work(
    settings: JudgeSettings,
    prompts: Sequence[PromptRow],
    constitution: Constitution,
    stage: str,
    pairs: int,
    replies: int,
    room: int,
    seed: int = 0,
    endpoints: Mapping[str, Endpoint] | None = None,
) -> Iterator[Work]:
    """What every judge of `settings` is asked about `pairs` pairs of `replies` different replies to each of `prompts`.

    Args:
        settings: The recipe's `judge`.
        prompts: Of the stage.
        constitution: Whose principles are asked about.
        stage: For the rows.
        pairs: Of each prompt.
        replies: Of each prompt, in those pairs.
        room: Tokens of a reply.
        seed: Draws the principles.
        endpoints: Where a score judge's scale is shorter.
    """
    for judge in member_settings(settings):
        tally = _Tally(stage, judge.model)
        for prompt in prompts:
            pair = Comparison("", prompt.messages, "", "", criteria_for(constitution, prompt, judge, seed))
            # A review is about one reply: without drawn principles, a reply in several pairs is reviewed once.
            reviewed = min(replies, 2 * pairs) if judge.principles == "all" else 2 * pairs
            _ask_about(tally, judge, pair, pairs, room, endpoints or {}, reviewed)
        if judge.rulebook is not None and judge.rulebook_asks:
            _ask_rules(tally, judge.rulebook, prompts, replies, room)
        yield from tally.works()


def comparing_work(
    settings: JudgeSettings, comparisons: Sequence[Comparison], stage: str, endpoints: Mapping[str, Endpoint]
) -> Iterator[Work]:
    """What every judge of `settings` is asked about `comparisons`, but for rules."""
    for judge in member_settings(settings):
        tally = _Tally(stage, judge.model)
        for comparison in comparisons:
            _ask_about(tally, judge, comparison, 1, 0, endpoints, 2)
        yield from tally.works()


def _ask_about(
    tally: "_Tally",
    judge: JudgeSettings,
    pair: Comparison,
    times: int,
    room: int,
    endpoints: Mapping[str, Endpoint],
    reviewed: int,
) -> None:
    """`times` times about a pair like `pair`, of `reviewed` different replies, with `room` tokens more in each."""
    if judge.kind == "additive":
        tally.add("reviews", reviewed * judge.rationales, additive_messages(pair, ""), room, judge.rationale_tokens)
    scale = [str(n) for n in range(1, (NINE if judge.model in endpoints else TEN) + 1)]
    template = load_template(judge.template)
    for criterion in pair.criteria:
        if judge.kind == "score":
            for reply in (pair.first, pair.second):
                tally.add("scores", times, score_messages(pair.messages, reply, criterion.principle, scale), room)
        elif judge.kind == "pairwise" and judge.reasoning == "direct":
            tally.add("comparisons", 2 * times, template.ask(pair, criterion, swapped=False), 2 * room)
        elif judge.kind == "pairwise":
            why, both = template.ask_why(pair, criterion, swapped=False), 2 * times * judge.rationales
            tally.add("rationales", both, why, 2 * room, judge.rationale_tokens)
            tally.add("comparisons", both, template.ask_after(why, ""), 2 * room + judge.rationale_tokens)


class _Tally:
    """Adds up one judge's requests by purpose."""

    def __init__(self, stage: str, model: str) -> None:
        self._stage, self._model = stage, model
        self._sums: dict[str, tuple[int, int, int, bool]] = {}

    def add(self, what: str, times: int, asked: Sequence[Message], replies: int, written: int = 0) -> None:
        """`times` requests, each with `replies` more tokens than stand in `asked`; with nothing `written`, options are scored."""
        requests, read, wrote, _ = self._sums.get(what, (0, 0, 0, True))
        read += times * (estimate_tokens(asked) + replies)
        self._sums[what] = (requests + times, read, wrote + times * (written or 1), not written)

    def works(self) -> Iterator[Work]:
        for what, (requests, read, wrote, scored) in self._sums.items():
            yield Work(self._stage, what, self._model, requests, scored, read, wrote)


def _ask_rules(tally: _Tally, rulebook: str, prompts: Sequence[PromptRow], replies: int, room: int) -> None:
    """A rulebook's questions; where tags do not say which response type a prompt wants, those of the type that has most."""
    book = load_rulebook(rulebook)
    for prompt in prompts:
        told = by_tag(book, prompt)
        possible = [told] if told else [response for response in book.responses if response.when is not None]
        for proposition in () if told else about_prompts(book):
            if proposition.question is not None:
                tally.add("rules on prompts", 1, proposition_messages(Item(prompt), proposition.question, book.options), 0)
        asked = [[p.question for p in needed(book, response) if p.question is not None] for response in possible]
        for question in max(asked, key=len, default=[]):
            tally.add("rules on replies", replies, proposition_messages(Item(prompt, ""), question, book.options), room)


def _judges(recipe: Recipe, constitution: Constitution, prompts: Prompts) -> Iterator[Work]:
    pairs, every = recipe.pairs, recipe.judge.model_copy(update={"principles": "all"})

    def size(prompt: PromptRow) -> tuple[int, int]:
        return len(criteria_for(constitution, prompt, recipe.judge, recipe.seed)), estimate_tokens(prompt.messages)

    if needs_audit(recipe):
        audited, count = [max(prompts["pairs"], key=size)], recipe.judge.audit_pairs  # which pairs, is not known yet
        yield from judge_work(
            recipe.judge, audited, constitution, "25-audit", count, 2 * count, pairs.max_new_tokens, recipe.seed, recipe.endpoints
        )
    labels = learns_from_labels(recipe)
    if labels and pairs.builders.judged:
        compared = pairs.per_prompt if pairs.length_tier is None else comb(pairs.candidates, 2)
        yield from judge_work(
            recipe.judge, prompts["pairs"], constitution, "30-pairs", compared,
            min(pairs.candidates, 2 * compared), pairs.max_new_tokens, recipe.seed, recipe.endpoints,
        )  # fmt: skip
    if labels and pairs.builders.meta_judged:
        yield from _meta(recipe, constitution, prompts["pairs"])
    if labels and pairs.builders.rbr_ladder and recipe.judge.rulebook is not None and recipe.judge.rulebook_asks:
        tally = _Tally("30-pairs", recipe.judge.model)
        _ask_rules(tally, recipe.judge.rulebook, prompts["pairs"], pairs.candidates, pairs.max_new_tokens)
        yield from tally.works()
    if recipe.optimizer in ("grpo", "rloo"):
        yield from _rewards(recipe, constitution, prompts["pairs"])
    yield from _onlooker(recipe, constitution, prompts["pairs"])
    yield from judge_work(  # base, SFT and the final policy, each with each
        every,
        prompts["evaluate"],
        constitution,
        "50-evaluate",
        3,
        3,
        recipe.evaluate.max_new_tokens,
        recipe.seed,
        recipe.endpoints,
    )


def judge_question(recipe: Recipe, constitution: Constitution, prompt: PromptRow) -> LongestQuestion | None:
    """The longest question to the recipe's judge about answers to `prompt`; None where no principle applies and it needs one."""
    pair = Comparison("", prompt.messages, "", "", criteria_for(constitution, prompt, recipe.judge, recipe.seed))
    return longest_question(pair, recipe.judge, recipe.pairs.max_new_tokens)


def _meta(recipe: Recipe, constitution: Constitution, prompts: Sequence[PromptRow]) -> Iterator[Work]:
    """Every two judgments of one question about each prompt, in both orders."""
    tally, times = _Tally("30-pairs", recipe.judge.model), 2 * comb(most_judgments(recipe.judge), 2)
    for question in (judge_question(recipe, constitution, prompt) for prompt in prompts):
        if question is not None:
            shown = Comparison("", question.messages, "", "", (META,))
            asked = PRINCIPLE.ask(shown, META, swapped=False)
            tally.add("meta-judgments", times, asked, question.replies + 2 * question.judgment)
    yield from tally.works()


def _rewards(recipe: Recipe, constitution: Constitution, prompts: Sequence[PromptRow]) -> Iterator[Work]:
    """What judge and rules are asked about sampled answers, were no two of them alike."""
    settings, stage = recipe.grpo, f"41-{recipe.optimizer}"
    room, answers = settings.max_new_tokens, settings.baseline_samples + settings.updates * settings.batch_size
    asked = [prompts[n % len(prompts)] for n in range(answers)]
    if settings.rewards.judge:
        alone = rewards_by_score(recipe)
        judge = recipe.judge.model_copy(update={"rulebook": None}) if alone else recipe.judge
        for work in judge_work(judge, asked, constitution, stage, 1, 2, room, recipe.seed, recipe.endpoints):
            half = replace(work, requests=work.requests // 2, tokens_in=work.tokens_in // 2, tokens_out=work.tokens_out // 2)
            yield half if alone else work
    if settings.rewards.rules and recipe.judge.rulebook is not None and recipe.judge.rulebook_asks:
        tally = _Tally(stage, recipe.judge.model)
        _ask_rules(tally, recipe.judge.rulebook, asked, 1, room)
        yield from tally.works()


def _onlooker(recipe: Recipe, constitution: Constitution, prompts: Sequence[PromptRow]) -> Iterator[Work]:
    """What the held-out judge is asked, were no answer that of the SFT model."""
    if (name := onlooker(recipe)) is None:
        return
    judge, looks = JudgeSettings(model=name), recipe.dpo.looks
    if recipe.optimizer == "dpo":
        stage, answers, room = "40-dpo", looks.times * looks.answers, looks.max_new_tokens
    else:
        learnt = recipe.ppo if recipe.optimizer == "ppo" else recipe.grpo
        answers, room = learnt.updates * min(learnt.held_out_answers, learnt.batch_size), learnt.max_new_tokens
        stage = f"41-{recipe.optimizer}"
    yield from judge_work(judge, [prompts[n % len(prompts)] for n in range(answers)], constitution, stage, 1, 2, room)


def _suites(recipe: Recipe, prompts: Sequence[SuitePrompt]) -> Iterator[Work]:
    """Answers of all policies, twice with a system prompt, compared where no rule is sound; refusals asked about."""
    room, settings = recipe.evaluate.max_new_tokens, 2 if recipe.evaluate.system_prompt else 1
    judged = [prompt for prompt in prompts if prompt.expected == "judge"]
    for judge in member_settings(recipe.judge) if judged else ():
        tally = _Tally("55-suites", judge.model)
        for prompt in judged:
            pair = Comparison("", prompt.messages, "", "", (criterion_of(prompt),))
            times = 3 * settings - (not prompt.reference)
            _ask_about(tally, judge, pair, times, room, recipe.endpoints, 2 * times)
        if judge.rulebook is not None and judge.rulebook_asks:
            rows = [PromptRow(prompt.id, prompt.messages) for prompt in judged]
            _ask_rules(tally, judge.rulebook, rows, 3 * settings + 1, room)
        yield from tally.works()
    if recipe.evaluate.refusal_judge is not None:
        tally = _Tally("55-suites", recipe.evaluate.refusal_judge)
        for prompt in (prompt for prompt in prompts if prompt.expected in REQUESTS):
            for proposition in (DECLINES, GIVES):
                item = Item(PromptRow(prompt.id, prompt.messages), "")
                tally.add("refusals", 3 * settings, proposition_messages(item, str(proposition.question), ("yes", "no")), room)
        yield from tally.works()


def _revise(recipe: Recipe, constitution: Constitution, prompts: Sequence[PromptRow]) -> Iterator[Work]:
    settings, room = recipe.revise, recipe.revise.max_new_tokens
    examples = load_few_shot(settings.few_shot, Silent())
    governed = [(prompt, applicable(constitution, prompt)) for prompt in prompts]
    governed = [(prompt, principles) for prompt, principles in governed if principles]
    read = sum(estimate_tokens(prompt.messages) for prompt, _ in governed)
    yield Work("10-revise", "drafts", settings.drafter, len(governed), False, read, len(governed) * room, exact=True)
    criticised = revised = 0
    for prompt, principles in governed:
        shown = with_examples(prompt.messages, examples)
        criticised += max(estimate_tokens(critique_messages(shown, "", p.critique)) for p in principles) + room
        revised += max(estimate_tokens(revision_messages(shown, "", p.critique, "", p.revision)) for p in principles) + 2 * room
    steps = settings.rounds * len(governed)
    exact = (
        settings.temperature > 0 and not settings.stop_when_clean
    )  # drawn ones differ by their seed; equal ones are bought once
    for what, tokens in (("critiques", criticised), ("revisions", revised)):
        yield Work("10-revise", what, settings.critic, steps, False, settings.rounds * tokens, steps * room, exact)
