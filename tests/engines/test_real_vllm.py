"""vLLM itself beside transformers, on the sandbox model and a CPU.

It lives in an environment of its own, whose `vllm` program RLAIF_DPO_VLLM names; skipped without.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.files import read_json, read_jsonl
from rlaif_dpo.models.adapters import add_adapter
from rlaif_dpo.models.load import load_model
from rlaif_dpo.models.source import model_folder
from rlaif_dpo.recipe.schema import Model
from tests.engines import vllm_child
from tests.tiny import tiny_adapter_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("RLAIF_DPO_VLLM") or "none").with_name("python")
TAKES_S = 400


def in_vllms_python(call: str, *given: object) -> None:
    """`call`, a function by its dotted name, on `given`, in vLLM's environment. What that lacks comes from this one, last."""
    if not PYTHON.is_file():
        pytest.skip("RLAIF_DPO_VLLM names no vLLM")
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (PYTHON.parent.parent / "lib" / ours).is_dir():
        pytest.skip(f"vLLM's Python is not {ours}, so it cannot use the packages of this one")
    module, _, name = call.rpartition(".")
    code = f"import sys; sys.path.append(sys.argv[1]); from {module} import {name}; {name}(*sys.argv[2:])"
    env = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(ROOT)}
    command = [str(PYTHON), "-c", code, sysconfig.get_path("purelib"), *map(str, given)]
    done = subprocess.run(command, env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=TAKES_S)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter_folder(model_folder("sandbox"), tmp_path_factory.mktemp("20-sft"), scale=0.3)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm") / "small"


@pytest.fixture(scope="module")
def said(run_folder: Path, adapter: Path) -> dict[str, Any]:
    out = run_folder.with_name("said.json")
    in_vllms_python("tests.engines.vllm_child.both", out, adapter, run_folder.parent)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def local(adapter: Path) -> Iterator[TransformersEngine]:
    loaded = load_model(Model())
    add_adapter(loaded, adapter, "20-sft")
    return TransformersEngine(loaded)


def by_id(rows: Iterator[Any]) -> dict[str, dict[str, Any]]:
    """As it comes back from JSON."""
    found: dict[str, dict[str, Any]] = json.loads(json.dumps(vllm_child.by_id(rows)))
    return found


def test_greedy_rows_are_those_of_transformers(said: dict[str, Any], local: TransformersEngine) -> None:
    """Both compute in float32, in another order: texts part where two tokens are as likely to 1e-6. Two of 64 may."""
    expected = by_id(local.generate(vllm_child.drafts()))
    same = [said["greedy"][id] == row for id, row in expected.items()]
    assert sum(same) >= 62
    assert said["greedy"].keys() == expected.keys()
    assert {row["finish_reason"] for row in said["greedy"].values()} >= {"stop"}
    assert list(said["skip"].values()) == [said["greedy"]["d63"]]
    assert {row["finish_reason"] for row in said["short"].values()} == {"length"}
    assert [row["completion_tokens"] for row in said["short"].values()] == [3] * 4


def test_a_row_that_fails_is_recorded_and_the_others_are_what_they_were(said: dict[str, Any], local: TransformersEngine) -> None:
    bad, own = said["bad"], by_id(local.generate(vllm_child.bad()))
    assert {id: bad[id] for id in ("d0", "d1", "d2")} == {id: said["greedy"][id] for id in ("d0", "d1", "d2")}
    assert {id: bad[id]["outcome"] for id in own} == {"long": "context", "hot": "error"}
    assert bad["long"] == own["long"]
    assert "temperature must be in [0, 2]" in bad["hot"]["error"] and bad["hot"]["finish_reason"] == "error"


def test_a_seed_gives_its_text_and_another_seed_another(said: dict[str, Any]) -> None:
    first, again, other = ({id: row["text"] for id, row in said[name].items()} for name in ("sampled", "again", "other"))
    assert first == again
    assert sum(first[id] != other[id] for id in first) >= 24, "32 answers of some twenty words at temperature 1"


def test_options_score_as_they_do_in_transformers(said: dict[str, Any], local: TransformersEngine) -> None:
    """Single letters, and a scale to 10. Captured mass, too."""
    expected = by_id(local.score_options(vllm_child.questions()))
    found = said["options"]
    assert found.keys() == expected.keys()
    for id, row in expected.items():
        assert found[id]["logprobs"] == pytest.approx(row["logprobs"], abs=1e-3)
        assert found[id]["mass"] == pytest.approx(row["mass"], abs=1e-4)
        assert (found[id]["prompt_tokens"], found[id]["source"], found[id]["error"]) == (row["prompt_tokens"], "logprob", None)


def test_rows_of_several_engines_may_be_under_way_together(said: dict[str, Any]) -> None:
    """The adapter generates, the bare model scores, after an iterator that was dropped half-way."""
    texts, scores = said["mixed"]
    assert len(texts) == len(scores) == 24
    assert sum(row["text"] == said["adapted"][id]["text"] for id, row in texts.items()) >= 23
    for id, row in scores.items():
        assert row["logprobs"] == pytest.approx(said["options"][id]["logprobs"], abs=1e-3)


def test_the_judge_says_what_the_local_judge_says(said: dict[str, Any], local: TransformersEngine) -> None:
    """32 pairs under every principle, both orders. Ties aside, 97 % must be on the same side of one half."""
    expected = vllm_child.compared(local)
    pairs = [(p, said["judged"][id][principle]) for id, found in expected.items() for principle, p in found.items()]
    assert max(abs(ours - theirs) for ours, theirs in pairs) < 0.01
    clear = [(ours > 0.5) == (theirs > 0.5) for ours, theirs in pairs if abs(ours - 0.5) > 0.01]
    assert len(clear) >= 30 and sum(clear) / len(clear) >= 0.97


def test_an_adapter_is_applied(said: dict[str, Any], local: TransformersEngine, adapter: Path) -> None:
    """Beside the bare model, in the same vLLM."""
    engine = TransformersEngine(local._loaded, "20-sft")
    expected, found = by_id(engine.generate(vllm_child.drafts())), said["adapted"]
    assert said["name"] == "sandbox+" + adapter.parent.name
    assert sum(found[id] == row for id, row in expected.items()) >= 62
    assert sum(found[id]["text"] != row["text"] for id, row in said["greedy"].items()) >= 12
    for id, row in by_id(engine.score_options(vllm_child.questions())).items():
        assert said["adapted options"][id]["logprobs"] == pytest.approx(row["logprobs"], abs=1e-3)


def test_what_is_closed_leaves_no_process(said: dict[str, Any]) -> None:
    """Its memory goes with it."""
    assert said["during"] > 0 and (said["before"], said["after"]) == (0, 0)


def test_a_run_trains_between_two_of_them(said: dict[str, Any], run_folder: Path) -> None:
    """To the end of the pairs: vLLM drafts and revises, transformers trains, vLLM answers with what was trained and judges."""
    assert read_json(run_folder / "env.json")["versions"]["vllm"]
    assert (run_folder / "20-sft" / "adapter" / "adapter_config.json").is_file()
    drafts, answers = (list(read_jsonl(run_folder / name)) for name in ("10-revise/drafts.jsonl", "30-pairs/candidates.jsonl"))
    assert {(row["engine"], row["outcome"]) for row in drafts} == {("sandbox", "ok")} and len(drafts) == 8
    assert {(row["engine"], row["outcome"]) for row in answers} == {("sandbox+20-sft", "ok")} and len(answers) == 16
    assert [row["p"] for row in read_jsonl(run_folder / "30-pairs" / "preferences.jsonl")]
