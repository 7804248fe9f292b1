import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif_dpo.files import write_text
from tests.cli.conftest import Cli
from tests.report.conftest import make_run  # noqa: F401

Make = Callable[..., Path]


def test_two_runs_on_80_columns_and_as_json(cli: Cli, tmp_path: Path, make_run: Make) -> None:  # noqa: F811
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "another-run-with-a-long-name")
    write_text(two / "recipe.yaml", (two / "recipe.yaml").read_text().replace("beta: 0.1", "beta: 0.2"))
    ended = cli("compare", str(one), str(two))
    assert ended.code == 0 and "  dpo.beta: 0.1 -> 0.2" in ended.out and "principles kept" in ended.out
    assert max(map(len, ended.out.splitlines()[:-1])) <= 80, "the page's path is as long as it is"
    assert (two / "compare.html").is_file()
    found = json.loads(cli("compare", str(one), str(two), "--json", "--out", str(tmp_path / "x.html")).out)
    assert found["recipe"] == {"dpo.beta": [0.1, 0.2]} and (tmp_path / "x.html").is_file()
    adherence = next(one for one in found["measures"] if one["key"] == "truth.dpo.adherence")
    assert adherence["paired"] and adherence["changes"][0]["value"] == 0
    assert "needs two runs" in cli("compare", str(one)).err
    assert "no run here" in cli("compare", str(one), str(tmp_path / "none")).err


@pytest.mark.slow
def test_a_gate_ends_with_1_and_a_wrong_name_with_2(cli: Cli, tmp_path: Path, make_run: Make) -> None:  # noqa: F811
    one, two = str(make_run(tmp_path / "one")), str(make_run(tmp_path / "two"))
    for words in (("report", one), ("compare", one, two)):
        held = cli(*words, "--gate", "adherence>=.5,overrefusal<=.05")
        assert held.code == 0 and "holds  adherence>=0.5" in held.out
        failed = cli(*words, "--gate", "adherence>=.5,adherence>=.9999,tax<=.03")
        assert failed.code == 1 and "FAILS  adherence>=0.9999" in failed.out and "not measured" in failed.out
        assert "tax: Measure it: rlaif-dpo tax" in failed.out and "adherence: " not in failed.out
        wrong = cli(*words, "--gate", "adherance>=.5")
        assert wrong.code == 2 and 'Did you mean "adherence"' in wrong.err
        outcomes = json.loads(cli(*words, "--gate", "tax<=.03", "--json").out)["gate"]
        assert [(outcome["holds"], outcome["value"]) for outcome in outcomes] == [(False, None)]
    assert "gate" not in json.loads(cli("report", one, "--json").out)
