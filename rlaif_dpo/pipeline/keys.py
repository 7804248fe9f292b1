"""Stage keys: the hash of exactly what a stage's result depends on, kept by name so that a change can be said in words."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.recipe.schema import Recipe
from rlaif_dpo.seeding import content_hash

Ingredients = dict[str, Any]

# What trades time for memory and leaves the result alone: a run stopped by a full memory goes on with a smaller batch.
MEMORY_ONLY = frozenset({"max_batch_tokens", "micro_batch_size", "gradient_checkpointing", "save_steps"})

ENGINE = "model.engine"
"""Who answers with the model. Not counted where it is `transformers`: the keys of runs from before there was a choice stay."""

# A file larger than this is known by its size, head and tail: reading 16 GB of weights at every start would cost minutes.
WHOLE = 64 * 2**20
ENDS = 2**20


def key_of(ingredients: Ingredients) -> str:
    """The stage key: 16 hex digits."""
    return content_hash(json.dumps(ingredients, sort_keys=True, ensure_ascii=True), length=16)


def recipe_ingredients(recipe: Recipe, sections: Sequence[str], but: Sequence[str] = ()) -> Ingredients:
    """The settings in `sections` by dotted name, without those in `but` and those that only trade time for memory.

    Both name whole sections (`judge`) or single settings (`judge.accept`).
    """
    values = _flatten(recipe.model_dump(mode="json"))
    found = {name: value for name, value in values if _within(name, sections) and not _within(name, but)}
    if found.get(ENGINE) == "transformers":
        del found[ENGINE]
    return {name: value for name, value in found.items() if name.rsplit(".", 1)[-1] not in MEMORY_ONLY}


def constitution_ingredients(constitution: Constitution, phase: str) -> Ingredients:
    """The principles of `phase`, or "all", each by the hash of the parts that are used there, and their order.

    A priority counts where there is one: the labels of a constitution without any are what they were.
    """
    principles = [p for p in constitution.principles if phase == "all" or phase in p.phases]
    wordings = {"revise": ("text", "critique", "revision"), "judge": ("text", "compare"), "all": ("text",)}[phase]
    parts = (*wordings, "weight", "applies_to")
    hashes = {}
    for p in principles:
        priority = [p.priority] if phase == "judge" and p.priority else []
        hashes[f"principle {p.id}"] = content_hash(json.dumps([*(getattr(p, part) for part in parts), *priority]))
    return {"principles": [p.id for p in principles], **hashes}


def file_ingredient(path: Path) -> str:
    """Content hash of a file, or of a folder's files with their names; "absent" if there is none."""
    if not path.exists():
        return "absent"
    digest = hashlib.sha256()
    for file in _visible_files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            if file.stat().st_size <= WHOLE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(ENDS))
                stream.seek(-ENDS, 2)
                digest.update(stream.read())
    return digest.hexdigest()[:16]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of ingredients, in words: `dpo.beta 0.1 -> 0.2`, `principle privacy removed`."""
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after and (name in old) == (name in new):
            continue
        if name == "principles":
            if sorted(before or ()) == sorted(after or ()):
                found.append("the order of the principles changed")
        elif name == "stage version":
            found.append("this version of rlaif-dpo makes it differently")
        elif " " in name:
            found.append(f"{name} {'added' if name not in old else 'removed' if name not in new else 'changed'}")
        else:
            found.append(f"{name} {json.dumps(before)} -> {json.dumps(after)}")
    return found


def _visible_files(path: Path) -> list[Path]:
    """`path` itself, or the files in it but for hidden ones (download caches)."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))


def _within(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
