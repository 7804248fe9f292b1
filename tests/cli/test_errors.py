"""What a user can cause: one line with the fix on stderr, code 2, no traceback."""

import errno
from pathlib import Path

import pytest

from rlaif_dpo.recipe.shipped import list_recipes
from tests.cli.conftest import Cli, Ended


def said(ended: Ended) -> str:
    """The one line of a mistake that a user can mend; what a run said before it stands above."""
    assert ended.code == 2, ended
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert errors == ended.err.splitlines()[-1:], ended.err
    return errors[0].removeprefix("error: ")


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
        ("evaluate.suites=[dangerus]", 'There is no suite "dangerus". Did you mean "dangerous"'),
        ("evaluate.suites=dangerous", "expected a list of text, not 'dangerous'"),
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


def test_a_recipe_whose_name_is_nearly_that_of_a_file_beside_it(cli: Cli, recipe: Path):
    line = said(cli("run", str(recipe.with_suffix(".yml"))))
    assert line.endswith(f'Did you mean "{recipe}"?')
    assert said(cli("run", str(recipe.parent / "quikstart"))).endswith('Did you mean "quickstart"?')
    known = ", ".join(sorted(shipped.name for shipped in list_recipes()))
    assert "quickstart" in known and said(cli("run", str(recipe.parent / "xyzzy"))).endswith(f"Known: {known}.")


def test_a_missing_constitution_file(cli: Cli, recipe: Path):
    (recipe.parent / "my_rules.yaml").write_text("name: r\n")
    folder = recipe.parent
    near = said(cli("validate", str(recipe), f"constitution={folder}/my_rule.yaml"))
    assert near == f'There is no constitution file {folder}/my_rule.yaml. Did you mean "{folder}/my_rules.yaml"?'
    far = said(cli("validate", str(recipe), "constitution=nowhere/xyzzy.yaml"))
    assert "no constitution file nowhere/xyzzy.yaml" in far and "telehealth" in far


@pytest.mark.parametrize("option", [("--dpo.beta", "0.2"), ("--dpo.beta=0.2",)])
def test_a_setting_written_as_an_option(cli: Cli, recipe: Path, option: tuple[str, ...]):
    assert said(cli("run", str(recipe), *option)) == "--dpo.beta is no option; settings are written key=value: dpo.beta=0.2"


def test_an_unknown_stage_is_listed_once(cli: Cli, recipe: Path):
    assert said(cli("run", str(recipe), "--from", "60")).count("40-dpo") == 1


def test_prompts_that_are_not_json(cli: Cli, recipe: Path):
    prompts, root = recipe.parent / "prompts.jsonl", str(recipe.parent / "runs")
    prompts.write_text(prompts.read_text() + '{"prompt": "torn\nnot json\n')
    ended = cli("run", str(recipe), "--until", "00-prompts", "--root", root)
    assert ended.code == 0
    assert f"{prompts}: dropped 2 rows (2 unreadable line)" in ended.err  # a part of a file is used, and its loss is said
    prompts.write_text("not json\n" * 30)
    line = said(cli("run", str(recipe), "--until", "00-prompts", "--root", root))
    assert line == f"No usable prompt in {prompts} (30 unreadable line); a JSONL file has one JSON object on each line."


UNREAD = {("run", "recipe.yaml"), ("report", "prompts.jsonl"), ("status", "prompts.jsonl")}
"""`run` writes the recipe anew from yours; the other two need no prompt of a run that has nothing else."""
DAMAGED = {
    "00-prompts/stage.json": ("{", "00-prompts/stage.json is damaged; delete it, and its stage is done anew"),
    "prompts.jsonl": ('{"phase": "revise"}\n{\n', "prompts.jsonl:2: this line is damaged; start its stage over with --from"),
    "recipe.yaml": ("name: [\n", "recipe.yaml:2: not valid YAML"),
}


@pytest.mark.parametrize(
    ("verb", "name"),
    [(verb, name) for verb in ("status", "report", "run") for name in DAMAGED if (verb, name) not in UNREAD],
)
def test_a_damaged_run(cli: Cli, recipe: Path, verb: str, name: str):
    root = recipe.parent / "runs"
    assert cli("run", str(recipe), "--until", "00-prompts", "--root", str(root)).code == 0
    text, fix = DAMAGED[name]
    (root / "mine" / name).write_text(text)
    asked = (str(recipe), "--root", str(root)) if verb == "run" else (str(root / "mine"),)
    assert f"{root / 'mine'}/{fix}" in said(cli(verb, *asked))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_report_that_cannot_be_written(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    import rlaif_dpo.report.write as write

    root = recipe.parent / "runs"
    assert cli("run", str(recipe), "--until", "00-prompts", "--root", str(root)).code == 0

    def refuse(path: Path, text: str) -> None:
        raise OSError(code, "refused", str(path))

    monkeypatch.setattr(write, "write_text", refuse)
    line = said(cli("report", str(root / "mine")))
    assert str(root / "mine") in line and ("disk full" in line or "cannot be written (refused)" in line)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--processes", "2"], "add --accelerate ddp"),
        (["--accelerate", "fsdp2"], "--accelerate fsdp2 (sharded weights) is not tested"),
        (["--accelerate", "ddp", "--processes", "3"], "cannot be shared by 3 processes"),
    ],
)
def test_several_processes_are_refused_before_anything_is_done(
    cli: Cli, recipe: Path, words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    root = recipe.parent / "runs"
    assert expected in said(cli("run", str(recipe), "--root", str(root), *words))
    assert not root.exists()
