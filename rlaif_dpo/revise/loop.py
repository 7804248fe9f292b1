"""The critique-revision loop (SL-CAI, Bai et al. 2022, 2212.08073, section 3.1), round by round over all prompts at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_dpo.constitution.schema import Constitution, Principle
from rlaif_dpo.engines.base import Completion, Engine, FinishReason, Request, Sampling
from rlaif_dpo.engines.journal import complete
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import Revise
from rlaif_dpo.revise.clean import clean_critique, clean_revision, finds_fault
from rlaif_dpo.revise.few_shot import Dialogue, load_few_shot, with_examples
from rlaif_dpo.revise.templates import critique_messages, revision_messages
from rlaif_dpo.seeding import content_hash, derive_rng, derive_seed


@dataclass(frozen=True)
class Step:
    """One round of one prompt.

    Attributes:
        round: 1 for the first; the draft is round 0.
        principle_id: The principle sampled for it.
        critique: What the critic said, cleaned; empty if it failed.
        flagged: Whether the critique names a fault.
        before: The reply that was criticised.
        after: The reply after it; `before` where no revision was had.
        revised: Whether a revision was had.
        finish_reason: How the model's turn that wrote `after` ended.
        error: Why the critique or the revision failed.
    """

    round: int
    principle_id: str
    critique: str
    flagged: bool
    before: str
    after: str
    revised: bool
    finish_reason: FinishReason
    error: str | None = None


@dataclass
class Steps:
    """One prompt, its draft, and every step taken from it. With `error` set there is no draft, and no step."""

    prompt: PromptRow
    draft: str
    finish_reason: FinishReason
    error: str | None = None
    steps: list[Step] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The reply as it stands: the last revision, or the draft."""
        return self.steps[-1].after if self.steps else self.draft


def applicable(constitution: Constitution, prompt: PromptRow) -> tuple[Principle, ...]:
    """The principles that can be sampled for a prompt."""
    return tuple(principle for principle in constitution.for_phase("revise", prompt.tags) if principle.weight > 0)


def sample_principle(constitution: Constitution, prompt: PromptRow, seed: int, round: int) -> Principle:
    """The principle of one step: by weight among those that apply, independent of every other step (with replacement)."""
    principles = applicable(constitution, prompt)
    rng = derive_rng(seed, "revise", prompt.id, round)
    return rng.choices(principles, weights=[principle.weight for principle in principles])[0]


def critique_and_revise(
    prompts: Sequence[PromptRow],
    constitution: Constitution,
    settings: Revise,
    engine: Engine,
    critic: Engine,
    folder: Path,
    seed: int,
    progress: Progress,
) -> list[Steps]:
    """A draft and `settings.rounds` critique-revision steps for each prompt, in the order of `prompts`.

    Every model's turn is appended to `folder`/{drafts,critiques,revisions}.jsonl as it finishes; turns that are there already are
    not generated again. Each prompt needs a principle that applies to it. A turn that fails leaves the reply as it was.
    """
    examples = load_few_shot(settings.few_shot, progress)
    check_room(critic.count_tokens, critic.context_length, critic.name, prompts, constitution, examples)
    sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    requests = [Request(prompt.id, prompt.messages, sampling, derive_seed(seed, "draft", prompt.id)) for prompt in prompts]
    drafts = complete(folder / "drafts.jsonl", engine, requests, _describe_draft, progress, "drafts")
    threads = [
        Steps(prompt, (row := drafts[prompt.id])["text"].strip(), row["finish_reason"], row["error"]) for prompt in prompts
    ]
    loop = _Loop(constitution, settings, critic, examples, sampling, folder, seed, progress)
    for round in range(1, settings.rounds + 1):
        loop.take_round(round, threads)
    return threads


def check_room(
    count: Callable[[Dialogue], int],
    context: int,
    critic: str,
    prompts: Sequence[PromptRow],
    constitution: Constitution,
    examples: Sequence[Dialogue],
) -> None:
    """Refuse a critic whose context of `context` tokens holds no critique request, not even for an empty reply.

    Raises:
        UserError: Not one of `prompts` leaves room behind the examples.
    """
    governed = [(prompt, requests) for prompt in prompts if (requests := [p.critique for p in applicable(constitution, prompt)])]
    fits = (
        count(critique_messages(with_examples(prompt.messages, examples), "", min(requests, key=len))) < context
        for prompt, requests in governed
    )
    if not governed or any(fits):
        return
    if examples:
        raise UserError(
            f"revise.few_shot: the examples leave no room for any prompt in the context of {critic} ({context} tokens); "
            "use fewer and shorter ones, or none"
        )
    raise UserError(
        f"no critique request fits into the context of {critic} ({context} tokens); use shorter prompts and principles, "
        "or a model with a longer context"
    )


def _describe_draft(completion: Completion) -> Row:
    return {"prompt_id": completion.id}


@dataclass(frozen=True)
class _Asked:
    """What one prompt is asked in a round: `conversation` is the prompt's, after the examples."""

    thread: Steps
    principle: Principle
    conversation: Dialogue
    columns: Row


@dataclass(frozen=True)
class _Loop:
    """What every round has in common."""

    constitution: Constitution
    settings: Revise
    critic: Engine
    examples: tuple[Dialogue, ...]
    sampling: Sampling
    folder: Path
    seed: int
    progress: Progress

    def take_round(self, round: int, threads: Sequence[Steps]) -> None:
        """One step for every prompt whose loop goes on: all critiques, then all revisions, so that batches are full."""
        asked = {f"{thread.prompt.id}/{round}": self._ask(round, thread) for thread in threads if self._goes_on(thread)}
        critiques = self._criticise(round, asked)
        # when clean prompts stop, they ask for no revision; else they do, and should get their reply back as it was
        wanted = {
            id: ask
            for id, ask in asked.items()
            if critiques[id]["error"] is None and (critiques[id]["flagged"] or not self.settings.stop_when_clean)
        }
        revisions = self._revise(round, wanted, critiques)
        for id, ask in asked.items():
            ask.thread.steps.append(_step(ask.thread, critiques[id], revisions[id] if id in wanted else None))

    def _goes_on(self, thread: Steps) -> bool:
        clean = any(step.error is None and not step.flagged for step in thread.steps)
        return thread.error is None and not (self.settings.stop_when_clean and clean)

    def _ask(self, round: int, thread: Steps) -> _Asked:
        principle = sample_principle(self.constitution, thread.prompt, self.seed, round)
        columns = {
            "prompt_id": thread.prompt.id,
            "round": round,
            "principle_id": principle.id,
            "principle_hash": content_hash(f"{principle.critique}\n{principle.revision}"),
            "constitution": self.constitution.hash,
        }
        return _Asked(thread, principle, with_examples(thread.prompt.messages, self.examples), columns)

    def _criticise(self, round: int, asked: Mapping[str, _Asked]) -> dict[str, Row]:
        messages = {id: critique_messages(ask.conversation, ask.thread.text, ask.principle.critique) for id, ask in asked.items()}

        def describe(completion: Completion) -> Row:
            critique = clean_critique(completion.text)
            return {
                **asked[completion.id].columns,
                "critique": critique,
                "flagged": completion.error is None and finds_fault(critique),
            }

        return self._complete("critique", round, messages, describe)

    def _revise(self, round: int, asked: Mapping[str, _Asked], critiques: Mapping[str, Row]) -> dict[str, Row]:
        messages = {
            id: revision_messages(
                ask.conversation, ask.thread.text, ask.principle.critique, critiques[id]["critique"], ask.principle.revision
            )
            for id, ask in asked.items()
        }

        def describe(completion: Completion) -> Row:
            critique, before = critiques[completion.id], asked[completion.id].thread.text
            return {
                **asked[completion.id].columns,
                "critique": critique["critique"],
                "flagged": critique["flagged"],
                "before": before,
                "after": before if completion.error else clean_revision(completion.text),
            }

        return self._complete("revision", round, messages, describe)

    def _complete(
        self, kind: str, round: int, messages: Mapping[str, Dialogue], describe: Callable[[Completion], Row]
    ) -> dict[str, Row]:
        # ids are "prompt id/round", so the seed names the kind, the prompt and the round
        requests = [Request(id, turns, self.sampling, derive_seed(self.seed, kind, id)) for id, turns in messages.items()]
        label = f"round {round} of {self.settings.rounds}: {kind}s"
        return complete(self.folder / f"{kind}s.jsonl", self.critic, requests, describe, self.progress, label)


def _step(thread: Steps, critique: Row, revision: Row | None) -> Step:
    """The step of a critique and its revision; None where the critique failed, or found no problem and ended the loop."""
    revised = revision is not None and revision["error"] is None
    standing = thread.steps[-1].finish_reason if thread.steps else thread.finish_reason
    return Step(
        round=critique["round"],
        principle_id=critique["principle_id"],
        critique=critique["critique"],
        flagged=critique["flagged"],
        before=thread.text,
        after=revision["after"] if revision is not None else thread.text,
        revised=revised,
        finish_reason=revision["finish_reason"] if revision is not None and revised else standing,
        error=revision["error"] if revision is not None else critique["error"],
    )
