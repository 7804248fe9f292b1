"""What a user can cause: one line with the fix on stderr, code 2, no traceback."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_missing_recipe(cli: Cli):
    ended = cli("run", "quickstrat")
    assert ended.code == 2
    assert ended.err.startswith("error: quickstrat: no such recipe")
    assert "quickstart" in ended.err
    assert ended.err.count("\n") == 1


def test_every_error_of_a_recipe_has_its_own_line(cli: Cli, recipe: Path):
    recipe.write_text(recipe.read_text() + "dpo:\n  bta: 0.1\n  lr: fast\n")
    ended = cli("validate", str(recipe))
    assert ended.code == 2
    lines = ended.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "beta" in lines[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prompts.source=nowhere.jsonl", "There is no file nowhere.jsonl"),
        ("constitution=telehelth", 'Did you mean "telehealth"'),
        ("model.path=./nowhere", "no model folder"),
        ("judge.model=./nowhere", "no model folder"),
        ("revise.few_shot=nowhere.json", "There is no file nowhere.json"),
        ("prompts.evaluate=0", "evaluate"),
        ("dpo.beta=-1", "beta"),
    ],
)
@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
def test_what_cannot_work(cli: Cli, recipe: Path, verb: str, override: str, said: str):
    ended = cli(verb, str(recipe), override)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_a_model_folder_without_weights(cli: Cli, recipe: Path):
    (recipe.parent / "model" / "model.safetensors").unlink()
    ended = cli("validate", str(recipe))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "has no weights" in ended.err


def test_bad_yaml(cli: Cli, recipe: Path):
    recipe.write_text("name: [unclosed\n")
    ended = cli("validate", str(recipe))
    assert ended.code == 2
    assert f"{recipe}:" in ended.err


def test_empty_prompts(cli: Cli, recipe: Path):
    (recipe.parent / "prompts.jsonl").write_text("")
    ended = cli("run", str(recipe), "--root", str(recipe.parent / "runs"))
    assert ended.code == 2
    assert "No usable prompt" in ended.err


def test_unknown_stage(cli: Cli, recipe: Path):
    ended = cli("run", str(recipe), "--until", "40-dop")
    assert ended.code == 2
    assert 'Did you mean "40-dpo"?' in ended.err


def test_unknown_principle(cli: Cli, recipe: Path):
    ended = cli("try", str(recipe), "I have a headache.", "--principle", "privcy")
    assert ended.code == 2
    assert 'Did you mean "privacy"?' in ended.err
    assert cli("constitution", "show", "telehealth", "privcy").code == 2


def test_an_empty_prompt_to_try(cli: Cli, recipe: Path):
    assert "The prompt is empty" in cli("try", str(recipe), "  ").err


@pytest.mark.parametrize("verb", ["status", "report", "chat"])
def test_no_run(cli: Cli, tmp_path: Path, verb: str):
    ended = cli(verb, str(tmp_path))
    assert ended.code == 2
    assert "no run here" in ended.err


def test_a_wrong_option_is_a_usage_error(cli: Cli):
    assert cli("run", "quickstart", "--form", "dpo").code == 2
