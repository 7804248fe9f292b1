"""Phase 1 as a stage: prompts in, SFT rows out, every step on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.engines.base import Engine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row, write_jsonl
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import Revise
from rlaif_dpo.revise.helpfulness import helpfulness_rows
from rlaif_dpo.revise.loop import Steps, applicable, critique_and_revise
from rlaif_dpo.revise.rows import NO_PRINCIPLE, REASONS, sort_rows


@dataclass(frozen=True)
class ReviseSummary:
    """What became of the prompts.

    Attributes:
        funnel: Counts, in the order of the work. `rows` = `kept` + every `dropped: ...`; `written` = `kept` + `helpfulness`.
    """

    funnel: dict[str, int]


def run_revise(
    prompts: Sequence[PromptRow],
    constitution: Constitution,
    settings: Revise,
    engine: Engine,
    critic: Engine,
    folder: Path,
    seed: int,
    progress: Progress,
) -> ReviseSummary:
    """SL-CAI's data: drafts by `engine`, critiques and revisions by `critic`, the fit ones as rows of `folder`/sft.jsonl.

    Resumes from what `folder` holds. rejected.jsonl has the other rows with their reason.
    Raises:
        UserError: the few-shot or helpfulness file is unusable, or no row is left to train on.
    """
    governed = [prompt for prompt in prompts if applicable(constitution, prompt)]
    threads = critique_and_revise(governed, constitution, settings, engine, critic, folder, seed, progress)
    provenance: Row = {
        "constitution": constitution.hash,
        "engine": engine.name,
        "critic": critic.name,
        "seed": seed,
        "template_hash": engine.template_hash,
    }
    kept, rejected, reasons = sort_rows(threads, settings, provenance)
    ids = {prompt.id for prompt in governed}
    ungoverned = [
        {"id": prompt.id, "prompt": list(prompt.messages), "prompt_id": prompt.id, "reason": NO_PRINCIPLE, **provenance}
        for prompt in prompts
        if prompt.id not in ids
    ]
    reasons[NO_PRINCIPLE] = len(ungoverned)
    mixed = helpfulness_rows(threads, settings, provenance, seed, progress)
    write_jsonl(folder / "sft.jsonl", kept + mixed)
    write_jsonl(folder / "rejected.jsonl", ungoverned + rejected)
    if not kept:
        reason = max(REASONS, key=lambda reason: reasons[reason])
        example = next((row["error"] for row in rejected if row["reason"] == reason and row["error"]), "")
        raise UserError(
            f"phase 1 left no row to train on, out of {len(prompts)} prompts; the commonest reason is '{reason}' "
            f"({reasons[reason]} times{f', e.g. {example}' if example else ''}); see {folder / 'rejected.jsonl'}"
        )
    steps = [step for thread in threads for step in thread.steps]
    return ReviseSummary(
        {
            "prompts": len(prompts),
            "drafts": sum(thread.error is None for thread in threads),
            "steps": len(steps),
            "flagged": sum(step.flagged for step in steps),
            "revisions": sum(step.revised for step in steps),
            "changed": sum(step.after != step.before for step in steps),
            "failed steps": sum(step.error is not None for step in steps),
            "rows": len(kept) + len(ungoverned) + len(rejected),
            **{f"dropped: {reason}": reasons[reason] for reason in REASONS},
            "kept": len(kept),
            "helpfulness": len(mixed),
            "written": len(kept) + len(mixed),
        }
    )


def try_prompt(
    prompt: PromptRow, constitution: Constitution, settings: Revise, engine: Engine, critic: Engine, seed: int
) -> Steps:
    """Draft, critiques and revisions of one prompt, as `run_revise` would have them; nothing is kept on disk.

    Raises:
        UserError: no principle applies to the prompt.
    """
    if not applicable(constitution, prompt):
        raise UserError(
            f"no principle of {constitution.name} applies to this prompt; tag it, or drop applies_to from a principle"
        )
    with TemporaryDirectory() as folder:
        return critique_and_revise([prompt], constitution, settings, engine, critic, Path(folder), seed, Silent())[0]
