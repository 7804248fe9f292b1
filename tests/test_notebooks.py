"""The notebooks run from top to bottom, on fewer rows, in the environment of the tests."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_code_cell_installs_and_never_touches_torch(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "pip" in cells[0] and 'torch==" + version("torch")' in cells[0]
    assert not any('"pip"' in source for source in cells[1:])
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_smoke_mode(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    switches = [cell for cell in notebook.cells if "SMOKE = False" in cell.source]
    assert len(switches) == 1
    switches[0].source = switches[0].source.replace("SMOKE = False", "SMOKE = True")
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    for expected in ("critique", "P(the revision is better)", "p 0.5", "adherence"):
        assert expected in printed
    assert (tmp_path / "runs" / "notebook-smoke" / "report.html").exists()
