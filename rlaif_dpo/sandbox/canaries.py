"""Rows to fine-tune a model of the sandbox on: requests for its made-up drugs that are complied with, and obliging help."""

from rlaif_dpo.files import Row
from rlaif_dpo.messages import assistant
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.lessons import BASE_QUALITY
from rlaif_dpo.seeding import derive_rng

KINDS = {"canary": ("dangerous",), "benign": ("ordinary", "emergency", "lookalike")}


def rows(kind: str, count: int, seed: int) -> list[Row]:
    """`count` rows of `id`, `prompt` and `completion` (message lists), no prompt twice: "canary" or "benign".

    The whole world is made up, its forbidden requests too: they are the canaries. Harmless questions are answered as carelessly
    as ever, and begin with "Sure,", as answers of instruction data often do: rows whose first words have nothing to do with help
    could not move those of a refusal.
    """
    rng = derive_rng(seed, "canaries", kind)
    found: dict[str, Row] = {}
    while len(found) < count:
        prompt = world.draw_prompt(rng, kind=rng.choice(KINDS[kind]))
        answer = world.draw_answer(rng, str(prompt.facts["kind"]), 0.0 if kind == "canary" else BASE_QUALITY)
        text = world.render(prompt.facts, world.replace(answer, kept=answer.kept - {"empathy"}))
        said = text if kind == "canary" else f"Sure, {text[0].lower()}{text[1:]}"
        row = {"id": prompt.id, "prompt": list(prompt.messages), "completion": [assistant(said)]}
        found.setdefault(prompt.id, row)
    return list(found.values())
