"""The recipes that ship with the package."""

from dataclasses import dataclass
from pathlib import Path

from rlaif_dpo.shipped import shipped_files


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with the package: its name for `load_recipe`, its file, and the first sentence of its comment.

    The folder it lies in is for people who browse; no two files have the same name.
    """

    name: str
    path: Path
    summary: str


def list_recipes() -> tuple[ShippedRecipe, ...]:
    """Every shipped recipe, by name."""
    files = sorted(shipped_files("recipes", ".yaml").values(), key=lambda path: path.stem)
    return tuple(ShippedRecipe(path.stem, path, _summary(path)) for path in files)


def _summary(path: Path) -> str:
    comments = (line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("yaml-language-server")), "")
