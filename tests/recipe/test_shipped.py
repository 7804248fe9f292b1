"""The shipped recipes and their schema for editors."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.constitution.schema import told_with
from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe import json_schema, list_recipes, load_recipe
from rlaif_dpo.recipe.keys import PEER_NAMES, all_keys, key_at
from rlaif_dpo.recipe.reader import read_yaml

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_there_are_recipes() -> None:
    assert [recipe.path.resolve() for recipe in list_recipes()] == sorted(RECIPES, key=lambda path: path.stem)
    assert {recipe.name for recipe in list_recipes()} >= {"quickstart", "qwen3-4b-16gb", "telehealth"}
    assert all(recipe.summary.endswith(".") for recipe in list_recipes())
    assert len({recipe.name for recipe in list_recipes()}) == len(RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_by_name_and_path(path: Path) -> None:
    assert load_recipe(path.stem) == load_recipe(path)
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_a_shipped_recipe_is_known(path: Path) -> None:
    lines = read_yaml(path.read_text(encoding="utf-8"), str(path)).lines
    written = {tuple(part for part in key if isinstance(part, str)) for key in lines}
    assert written
    assert [key for key in written if key_at(key) is None] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_editors_find_the_schema_of_a_shipped_recipe_and_agree_with_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = path.parent / first.partition("=")[2]
    jsonschema.validate(plain(read_yaml(text, str(path)).data), json.loads(schema.read_text(encoding="utf-8")))


def test_the_two_recipes_of_rl_cai_differ_in_name_and_optimizer() -> None:
    dpo, ppo = (load_recipe(f"rl-cai-{optimizer}") for optimizer in ("dpo", "ppo"))
    assert ppo == dpo.model_copy(update={"name": "rl-cai-ppo", "optimizer": "ppo"})
    lines = ((FOLDER / f"rl-cai-{optimizer}.yaml").read_text(encoding="utf-8").splitlines() for optimizer in ("dpo", "ppo"))
    assert sum(one != other for one, other in zip(*lines, strict=True)) <= 5


def test_listed_and_explained_differ_in_their_constitution() -> None:
    """The other arm as the recipe's comment makes it: another name, and the same principles without their reasons."""
    comment = next(
        line for line in (FOLDER / "methods" / "explained.yaml").read_text(encoding="utf-8").splitlines() if "differs" in line
    )
    explained = load_recipe("explained")
    listed = load_recipe("explained", comment.partition("rlaif-dpo run explained ")[2].split())
    assert listed == explained.model_copy(update={"name": "listed", "constitution": "telehealth"})
    one, other = (load_constitution(recipe.constitution) for recipe in (listed, explained))
    assert [(p.id, p.text, p.revision) for p in one.principles] == [(p.id, p.text, p.revision) for p in other.principles]
    assert all(told_with(p) and not told_with(q) for p, q in zip(other.principles, one.principles, strict=True))


def test_the_schema_file_is_up_to_date() -> None:
    assert json.loads((FOLDER / "recipe.schema.json").read_text(encoding="utf-8")) == json_schema(), "run `make schema`"


def test_the_schema_refuses_what_the_loader_refuses(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text in ("name: a/b", "name: x\nsede: 1", "name: x\nlora: {r: 0}", "name: x\ndpo: {loss: no}", "seed: 1"):
        path.write_text(text)
        with pytest.raises(UserError):
            load_recipe(path)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(plain(read_yaml(text, "r").data), json_schema())


def test_names_of_peers_lead_to_keys_that_exist() -> None:
    dotted = {key.dotted for key in all_keys().values()}
    names = {path[-1] for path in all_keys()}
    assert [name for name in PEER_NAMES.values() if name not in dotted | names] == []
    assert [name for name in PEER_NAMES if name in names] == []
