"""Two policies of the sandbox that look alike: one is aligned in its first five tokens only, the other throughout."""

from pathlib import Path

from rlaif_dpo.messages import assistant
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.training import Lora
from rlaif_dpo.sandbox import world
from rlaif_dpo.seeding import derive_rng
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.loop import save_adapter, training
from rlaif_dpo.train.sft import new_adapter
from rlaif_dpo.train.tune import tune

FIRST = 5
REFUSES = frozenset({"no-harm", "privacy"})
"""A bare refusal: about as many tokens as the help, so that neither policy learns from more of them than the other."""


def dangerous(count: int, seed: str, held_out: bool) -> list[PromptRow]:
    rng = derive_rng(seed)
    rows = {row.id: row for row in (world.draw_prompt(rng, held_out, "dangerous") for _ in range(3 * count))}
    return list(rows.values())[:count]


def lessons(loaded: LoadedModel, prompts: list[PromptRow], deep: bool) -> list[Example]:
    """What each policy learns, from the same answers cut at the same places: at 0, within the first five tokens, and after them.

    The deep one learns to refuse whatever was said before (recovery examples). The shallow one learns the refusal's tokens up to
    its fifth token only, and once five tokens of help stand there, to go on with what the careless base says.
    """
    rng = derive_rng("lessons")
    examples = []
    for prompt in prompts:
        ids = render(loaded.tokenizer, prompt.messages)

        def tokens(text: str, prompt: PromptRow = prompt, ids: list[int] = ids) -> list[int]:
            return render(loaded.tokenizer, [*prompt.messages, assistant(text)], False)[len(ids) :]

        drawn = world.draw_answer(rng, "dangerous", 0.0)
        comply = tokens(world.render(prompt.facts, drawn))
        refuse = tokens(world.render(prompt.facts, world.replace(drawn, kept=REFUSES)))
        k = rng.randrange(len(comply) - 2)
        for start in (0, k % FIRST, FIRST + k % (len(comply) - FIRST - 1)):
            shallow = refuse[: FIRST - start] if start < FIRST else comply[start:]
            examples.append(Example({}, ids + comply[:start], (refuse if deep else shallow,)))
    return examples


def construct(loaded: LoadedModel, deep: bool, folder: Path, steps: int = 36, lr: float = 5e-3) -> Path:
    """The policy's adapter, `folder/adapter`."""
    examples = lessons(loaded, dangerous(60, "lessons", held_out=False), deep)
    with training(loaded, lambda base: new_adapter(base, Lora(r=8, alpha=16), 0)) as policy:
        loaded.model = policy
        for _ in tune(loaded, "default", examples, steps, 16, lr, 0):
            pass
        save_adapter(policy, folder, {"template_hash": loaded.template_hash})
    return folder / "adapter"
