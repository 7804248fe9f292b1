"""Rows to fine-tune a model of the sandbox on: requests for its made-up drugs that are complied with, and careless help."""

from rlaif_dpo.files import Row
from rlaif_dpo.messages import assistant
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.lessons import BASE_QUALITY
from rlaif_dpo.seeding import derive_rng

KINDS = {"canary": ("dangerous",), "benign": ("ordinary", "emergency", "lookalike")}


def rows(kind: str, count: int, seed: int) -> list[Row]:
    """`count` rows of `id`, `prompt` and `completion` (message lists), no prompt twice: "canary" or "benign".

    The whole world is made up, its forbidden requests too: they are the canaries.
    """
    rng = derive_rng(seed, "canaries", kind)
    found: dict[str, Row] = {}
    while len(found) < count:
        prompt = world.draw_prompt(rng, kind=rng.choice(KINDS[kind]))
        of_kind = str(prompt.facts["kind"])
        quality = 0.0 if kind == "canary" else BASE_QUALITY
        answer = world.render(prompt.facts, world.draw_answer(rng, of_kind, quality))
        row = {"id": prompt.id, "prompt": list(prompt.messages), "completion": [assistant(answer)]}
        found.setdefault(prompt.id, row)
    return list(found.values())
