"""The project as a whole: sizes, imports, versions, and a README whose commands exist."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rlaif_dpo
from rlaif_dpo.cli import main
from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "rlaif_dpo").rglob("*.py"))
CONSTRAINTS = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
PINS = {canonicalize_name(name): pin for name, pin in CONSTRAINTS}
LAYERS = (
    {"cli"},
    {"pipeline"},
    {"revise", "pairs", "train", "evaluate", "report", "export"},
    {"judges", "engines", "models"},
    {"constitution", "recipe", "prompts"},
    {"errors", "seeding", "files", "progress", "messages", "shipped", "bootstrap"},
)
BESIDE_VLLM = {
    "jinja2": "3.1.6", "jsonschema": "4.26.0", "numpy": "2.3.5", "openai": "3.54.0", "packaging": "26.3", "psutil": "7.2.2",
    "pydantic": "2.14.3", "rich": "15.0.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "torch": "2.13.0",
    "transformers": "5.19.0", "typer": "0.29.2", "vllm": "0.32.0",
}  # fmt: skip
"""With what vLLM 0.32.0, which wants transformers below 5.20, was installed and tried."""
IMPORT_NAMES = {"ruamel-yaml": "ruamel"}


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, inside functions, too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append(str(node.module))
    return tuple(found)


def test_no_file_is_longer_than_500_lines() -> None:
    assert [str(path) for path in PACKAGE if len(path.read_text(encoding="utf-8").splitlines()) > 500] == []


def test_every_folder_of_code_is_a_package() -> None:
    assert [str(path.parent) for path in PACKAGE if not (path.parent / "__init__.py").exists()] == []


def test_imports_point_one_way() -> None:
    def layer(room: str) -> int:
        return next((depth for depth, rooms in enumerate(LAYERS) if room in rooms), -1)

    wrong: list[str] = []
    for path in PACKAGE:
        room = path.relative_to(ROOT / "rlaif_dpo").parts[0].removesuffix(".py")
        if room in ("__init__", "sandbox"):
            continue
        assert layer(room) >= 0, f"{room} has no place in the house"
        others = {module.split(".")[1] for module in imports(path) if module.startswith("rlaif_dpo.")} - {"sandbox", room}
        wrong += [f"{path}: {room} may not import {other}" for other in sorted(others) if layer(other) < layer(room)]
    assert wrong == []


def test_only_the_adapter_module_imports_trl() -> None:
    importers = [path.name for path in PACKAGE if "trl" in {module.partition(".")[0] for module in imports(path)}]
    assert importers == ["trl_adapter.py"]


def test_every_import_is_declared_and_every_dependency_is_pinned() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    extras = {
        canonicalize_name(Requirement(line).name) for lines in project()["optional-dependencies"].values() for line in lines
    }
    assert sorted(name for name in declared | extras if name not in PINS) == ["vllm"]  # with older versions: see BESIDE_VLLM
    for extra in ("gguf", "vllm"):
        declared |= {canonicalize_name(Requirement(line).name) for line in project()["optional-dependencies"][extra]}
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared} | set(sys.stdlib_module_names) | {"rlaif_dpo"}
    used = {module.partition(".")[0]: path for path in PACKAGE for module in imports(path)}
    carried = {"huggingface_hub", "markupsafe", "pyarrow", "pydantic_core"}  # by transformers, jinja2, datasets and pydantic
    assert {name: str(path) for name, path in used.items() if name not in known | carried} == {}


def test_the_pins_lie_in_the_ranges_and_are_what_runs() -> None:
    for line in project()["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), line
        assert version(requirement.name).partition("+")[0] == PINS[canonicalize_name(requirement.name)]
    assert [pin for pin in PINS.values() if "+" in pin] == []


def test_the_ranges_admit_what_vllm_comes_with() -> None:
    wanted = [Requirement(line) for line in (*project()["dependencies"], *project()["optional-dependencies"]["vllm"])]
    ranges = {canonicalize_name(found.name): found.specifier for found in wanted}
    assert {name: pin for name, pin in BESIDE_VLLM.items() if not ranges[name].contains(pin)} == {}
    assert not Requirement("transformers>=5.20,<6").specifier.contains(BESIDE_VLLM["transformers"]), "it would be told"


def test_the_package_answers_with_its_names() -> None:
    assert rlaif_dpo.load_recipe("quickstart").name == "quickstart"
    assert callable(rlaif_dpo.run)
    assert isinstance(rlaif_dpo.Run, type)
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", rlaif_dpo.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlaif_dpo.nothing  # type: ignore[attr-defined]


def documented_commands() -> list[tuple[str, ...]]:
    """The verbs of every `rlaif-dpo ...` line in the bash fences of README and docs."""
    verbs = set()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        for fence in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for command in re.findall(r"^(?:\.venv/bin/)?rlaif-dpo +([a-z]+(?: +[a-z]+)?)", fence, re.MULTILINE):
                words = command.split()
                verbs.add(tuple(words[: 2 if words[0] in ("recipes", "constitution") else 1]))
    return sorted(verbs)


@pytest.mark.parametrize("verb", documented_commands(), ids=" ".join)
def test_a_documented_command_exists(verb: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_a_documented_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = re.findall(r"^make ([a-z-]+)", page.read_text(encoding="utf-8") if page.exists() else "", re.MULTILINE)
    assert set(written) <= targets


def test_the_files_that_go_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
