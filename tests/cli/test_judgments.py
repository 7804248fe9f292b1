import json
from pathlib import Path

from rlaif_dpo.engines.store import STORE, CallStore
from tests.cli.conftest import Cli
from tests.engines.test_store import call


def test_judgments(cli: Cli, tmp_path: Path):
    root = ("--root", str(tmp_path))
    assert "There is no judgment store" in cli("judgments", "ls", *root).err
    assert not (tmp_path / STORE).exists()
    store = CallStore(tmp_path / STORE)
    store.set_note("dialect", {})
    store.put(call("aa1"))
    store.put(call("b2", outcome="error", text="", error="gave up"))
    store.close()
    assert "ok 1, error 1" in cli("judgments", "ls", *root).out
    assert json.loads(cli("judgments", "ls", "--json", *root).out)[0]["rows"] == 2
    shown = cli("judgments", "show", "aa", *root).out
    assert "[user] Which?" in shown and "[reply] A" in shown and "mass 0.9800" in shown and "$0.250000" in shown
    assert "[reply] gave up" in cli("judgments", "show", "owner/b", *root).out
    assert json.loads(cli("judgments", "show", "b2", "--json", *root).out)[0]["error"] == "gave up"
    assert 'begins with "zz"' in cli("judgments", "show", "zz", *root).err
    assert cli("judgments", "export", str(tmp_path / "all.jsonl"), *root).code == 0
    assert [json.loads(line)["key"] for line in (tmp_path / "all.jsonl").read_text().splitlines()] == ["aa1", "b2"]
    assert "is there already" in cli("judgments", "export", str(tmp_path / "all.jsonl"), *root).err
    assert "prune what?" in cli("judgments", "prune", *root).err
    assert "1 would be removed" in cli("judgments", "prune", "--failed", *root).out
    assert cli("judgments", "prune", "--failed", "--yes", *root).out == "1 removed\n"
    assert json.loads(cli("judgments", "ls", "--json", *root).out)[0]["rows"] == 1
    assert [cli("judgments", "prune", "--probes", *root).out for _ in range(2)] == ["1 forgotten\n", "0 forgotten\n"]
