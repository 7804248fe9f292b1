"""What `pip install rlaif-dpo` gives: the wheel alone, away from the checkout, has all that ships and finds it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlaif_dpo.shipped import KINDS

pytest.importorskip("hatchling", reason="the wheel is built without network, so its build backend must be there: the dev extra")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


@pytest.fixture(scope="module")
def begun(site: Path) -> str:
    """A run of the installed package, from the folder of `cli`."""
    started = cli(site, "run", "quickstart", "--until", "00-prompts")
    assert started.returncode == 0, started.stderr
    return "runs/quickstart"


def cli(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed `rlaif-dpo`, from a folder that holds nothing; what it imports from `site` comes before the checkout."""
    empty = site.parent / f"{site.name}-cwd"
    empty.mkdir(exist_ok=True)
    command = [sys.executable, str(site / "bin" / "rlaif-dpo"), *arguments]
    return subprocess.run(command, cwd=empty, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    folders = {"rlaif_dpo": "rlaif_dpo"} | {name: f"rlaif_dpo/_data/{name}" for name in KINDS}
    ours = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == ours


def test_what_ships_is_found_in_the_installed_package(site: Path) -> None:
    recipes = json.loads(cli(site, "recipes", "ls", "--json").stdout)
    assert "quickstart" in [recipe["name"] for recipe in recipes]
    assert all(Path(recipe["path"]).is_relative_to(site) for recipe in recipes)
    assert "privacy" in cli(site, "constitution", "show", "telehealth").stdout
    assert cli(site, "suites", "show", "frank").stdout.count("\n") > 20
    assert "quickstart is valid" in cli(site, "validate", "quickstart", "revise.few_shot=critique-revision").stdout
    planned = json.loads(cli(site, "plan", "quickstart", "--json").stdout)
    assert planned["context_length"] > 0  # read from the shipped sandbox model


def test_a_report_is_written_from_the_installed_templates(site: Path, begun: str) -> None:
    assert cli(site, "report", begun).returncode == 0
    page = site.parent / f"{site.name}-cwd" / begun / "report.html"
    assert "</html>" in page.read_text(encoding="utf-8")


def test_the_checkout_does_not_help_out(site: Path, begun: str, tmp_path: Path) -> None:
    """Control: without its data, model or template the installed package fails, though the checkout beside it has them.

    With them each of these commands does its work, in the tests above.
    """
    for missing, arguments in (
        ("_data/recipes", ("validate", "quickstart")),
        ("_data/constitutions", ("constitution", "show", "telehealth")),
        ("_data/suites", ("suites", "show", "frank")),
        ("_data/few_shot", ("validate", "quickstart", "revise.few_shot=critique-revision")),
        ("sandbox/model", ("plan", "quickstart")),
        ("report/pages/sections/reproduce.html", ("report", begun)),
    ):
        lost, kept = site / "rlaif_dpo" / missing, tmp_path / "kept"
        lost.rename(kept)
        assert cli(site, *arguments).returncode != 0, missing
        kept.rename(lost)
