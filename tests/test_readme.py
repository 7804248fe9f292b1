"""Every command of the README and the manual is run as it is written, in a copy of the project whose recipes are small."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif_dpo.recipe import dump_recipe, load_recipe
from tests.children import run_here

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COPIED = ("Makefile", "pyproject.toml", "constraints.txt", "recipes", "benchmarks")
SMALL = (
    "prompts.revise=8", "prompts.pairs=8", "prompts.evaluate=3", "revise.rounds=1", "pairs.candidates=2", "pairs.per_prompt=1",
    "judge.audit_pairs=24", "sft.epochs=1", "dpo.epochs=1", "evaluate.bootstrap=50", "reward.epochs=1", "ppo.updates=2",
    "ppo.batch_size=4", "ppo.minibatch_size=4", "ppo.baseline_samples=4",
)  # fmt: skip
STANDS_FOR = {"FILE": "front_desk.yaml", "RUN": "runs/quickstart", "RECIPE": "my.yaml"}
TIMEOUT_S = 300
RUN_BY_MAKE = ("rlaif-dpo",)
"""What `make` starts and the tests may start too; ruff, mypy and pytest are asked for their help instead."""
TOO_LONG = ("python -m rlaif_dpo.sandbox.pretrain", "python -m rlaif_dpo.sandbox.measure")
"""Training the sandbox model takes half an hour and measuring it a minute: asked for their help, too. See tests/sandbox."""

SHORTER = {"rlaif-dpo probe depth": " --limit 4", "rlaif-dpo run recipes/rl-cai-ppo.yaml": " ppo.updates=3"}
"""What is added to a command that would take a minute: it is run as it is written, on less."""


def commands(page: str) -> list[str]:
    """The commands of a page in its order: the lines of its bash fences, and what stands in backticks with arguments.

    What is only mentioned is run as well, and so is written with its arguments: `rlaif-dpo plan RECIPE`.
    """
    found: list[str] = []
    for fence, inline in re.findall(r"^```bash\n(.*?)^```|`((?:rlaif-dpo|python) [^`\n]+)`", page, re.DOTALL | re.MULTILINE):
        found += [line for line in fence.replace("\\\n", "").splitlines() if line.strip()] or [inline]
    return list(dict.fromkeys(re.sub(r"\b(FILE|RUN|RECIPE)\b", lambda word: STANDS_FOR[word[0]], command) for command in found))


class Clone:
    """A copy of the project, installed as `make` would have left it, with small recipes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(BIN)
        (folder / ".venv" / ".installed").touch()
        for recipe in sorted((folder / "recipes").glob("*.yaml")):
            self.shrink(f"recipes/{recipe.name}")
        fence = re.search(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert fence is not None
        (folder / "front_desk.yaml").write_text(fence[1], encoding="utf-8")

    def shrink(self, recipe: str) -> None:
        """Edit a recipe as a person would who has little time."""
        path = self.folder / recipe
        path.write_text(dump_recipe(load_recipe(path, SMALL)), encoding="utf-8")

    def run(self, command: str) -> str:
        """Run one documented command in a process of its own; its output.

        One of ours without anything that only a shell knows is spared the start of Python and its imports.

        Raises:
            AssertionError: It failed.
        """
        if command.startswith("make "):
            return "".join(self._run_make_line(line) for line in self._shell(command.replace("make ", "make -n ")).splitlines())
        command += next((less for start, less in SHORTER.items() if command.startswith(start)), "")
        command += " --help" if command.startswith(TOO_LONG) else ""
        if command.startswith(("rlaif-dpo ", "python ")) and not set("<>|&;$`") & set(command):
            done = self._child(command)
        else:
            done = self._shell(command)
        if command.startswith("rlaif-dpo recipes cp"):
            self.shrink(shlex.split(command)[-1])
        return done

    def _run_make_line(self, line: str) -> str:
        return self._shell(line if Path(line.split()[0]).name in RUN_BY_MAKE else f"{line} --help")

    def _child(self, command: str) -> str:
        return self._ended(command, *run_here(shlex.split(command, comments=True), self.folder, self._env(), TIMEOUT_S))

    def _shell(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self._env(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        return self._ended(command, done.returncode, done.stdout)

    def _env(self) -> dict[str, str]:
        # `make test` starts these tests: what it says to the makes below it is not the reader's.
        typed = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return typed | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def _ended(self, command: str, code: int | None, output: str) -> str:
        assert code == 0, f"`{command}` ended with {code}:\n{output}"
        return output


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


def test_the_commands_of_the_readme_and_then_those_of_the_manual(clone: Clone) -> None:
    """In one test, since each command builds on those before it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    written = [command for page in pages for command in commands(page.read_text(encoding="utf-8"))]
    assert {"make quickstart", "make test", "rlaif-dpo run my.yaml"} <= set(written)
    for command in dict.fromkeys(written):
        clone.run(command)
    assert (clone.folder / "runs" / "quickstart" / "report.html").exists()


def test_the_python_of_the_readme(clone: Clone) -> None:
    """On the small recipe: `load_recipe("quickstart")` is the shipped one, minutes long."""
    fence = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert fence is not None and '"quickstart"' in fence[1]
    code = fence[1].replace('"quickstart"', '"recipes/quickstart.yaml"')
    assert "'value'" in clone.run(f"python -c {shlex.quote(code)}")


@pytest.mark.parametrize(
    "page",
    [
        "```bash\nrlaif-dpo recipe ls\n```",
        "```bash\nrlaif-dpo recipes ls\nrlaif-dpo validate mine.yaml\n```",
        "```bash\nmake quikstart\n```",
        "| see | `rlaif-dpo validate quickstart dpo.bta=0.1` |",
        "`rlaif-dpo status runs/quickstart --from 40-dpo`",
        "`python benchmarks/lossess.py runs/quickstart`",
        "```bash\npython -m rlaif_dpo.sandbox.train\n```",
    ],
)
def test_a_wrong_command_is_noticed(clone: Clone, page: str) -> None:
    with pytest.raises(AssertionError, match="ended with"):
        for command in commands(page):
            clone.run(command)


def test_make_lines_are_read_alike_below_another_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` runs these tests, and a make below a make also prints which folder it enters."""
    monkeypatch.setenv("MAKELEVEL", "1")
    monkeypatch.setenv("MAKEFLAGS", "w")
    Clone(tmp_path).run("make lint")


def test_a_wrong_program_in_the_makefile_is_noticed(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    makefile = clone.folder / "Makefile"
    makefile.write_text(makefile.read_text().replace("-m pytest", "-m pytset").replace("rlaif-dpo run", "rlaif-dpo rnu"))
    for target in ("make test", "make quickstart"):
        with pytest.raises(AssertionError, match="ended with"):
            clone.run(target)
