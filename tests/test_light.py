"""The command line starts without torch and its kin: `--help` and `validate` answer at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "pandas", "numpy", "pyarrow", "openai"}
PROBE = """
import json, sys
code = 0
try:
    {statement}
except SystemExit as error:
    code = error.code or 0
print(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def imported(statement: str, *arguments: str) -> tuple[int, set[str]]:
    """The exit code of `statement` in a fresh interpreter, and the top-level modules that it leaves imported."""
    command = [sys.executable, "-c", PROBE.format(statement=statement), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    "statement",
    [
        "import rlaif_dpo",
        "from rlaif_dpo import load_recipe; load_recipe('quickstart')",
        "import rlaif_dpo.constitution, rlaif_dpo.prompts.rows, rlaif_dpo.cli",
    ],
)
def test_these_imports_are_light(statement: str) -> None:
    assert imported(statement)[1] & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["validate", "recipes/quickstart.yaml"], ["recipes", "ls"]])
def test_these_commands_are_light(arguments: list[str]) -> None:
    code, modules = imported("from rlaif_dpo.cli import main; main()", *arguments)
    assert code == 0
    assert modules & HEAVY == set()


def test_the_probe_can_fail() -> None:
    assert imported("import safetensors.numpy")[1] & HEAVY == {"numpy"}
    assert imported("raise SystemExit(3)")[0] == 3
