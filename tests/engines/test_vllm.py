"""How the engine uses vLLM, with a stand-in for it: test_real_vllm.py has the real one."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines import vllm_model as vllm_module
from rlaif_dpo.engines.base import OptionRequest, Request, Sampling
from rlaif_dpo.engines.vllm import VllmEngine
from rlaif_dpo.engines.vllm_model import VllmModel
from rlaif_dpo.errors import UserError
from rlaif_dpo.messages import user
from rlaif_dpo.models.chat import render
from rlaif_dpo.pipeline import plan, run
from rlaif_dpo.pipeline.checks import check_recipe
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe import load_recipe
from rlaif_dpo.recipe.schema import Model
from tests.children import start
from tests.tiny import tiny_model_folder


class Refused(Exception):
    """As vLLM's of requests that it does not take: no ValueError."""


class StandIn:
    """Answers one request a step, the oldest first, with the tokens of "A" and the stop token; of `fatal` prompts it dies.

    Attributes:
        started: What each was started with, of all there were.
        dead: Whether it was shut down.
    """

    started: list[dict[str, Any]] = []  # noqa: RUF012 - of the class
    living = 0
    fatal: Callable[[list[int]], bool] = staticmethod(lambda prompt: False)

    def __init__(self, settings: dict[str, Any]) -> None:
        StandIn.started.append(settings)
        StandIn.living += 1
        self.waiting: dict[str, tuple[list[int], SimpleNamespace]] = {}
        self.dead = False
        self.most = 0
        self.adapters: list[tuple[str, int, str]] = []
        self.model_config = SimpleNamespace(max_model_len=400)
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)

    def _shutdown(self) -> None:
        StandIn.living -= 1
        self.dead = True

    def add_request(self, id: str, prompt: dict[str, list[int]], params: SimpleNamespace, lora_request: Any) -> None:
        assert not self.dead
        if params.temperature > 2:
            raise Refused("too hot")
        self.waiting[id] = (prompt["prompt_token_ids"], params)
        self.adapters += [lora_request] if lora_request is not None else []
        self.most = max(self.most, len(self.waiting))

    def abort_request(self, ids: list[str]) -> None:
        for id in ids:
            del self.waiting[id]

    def step(self) -> list[SimpleNamespace]:
        assert not self.dead and self.waiting, "a step without work would wait for ever"
        if any(StandIn.fatal(prompt) for prompt, _ in self.waiting.values()):
            raise RuntimeError("EngineDeadError")
        id = next(iter(self.waiting))
        _, params = self.waiting.pop(id)
        wanted = getattr(params, "logprob_token_ids", ())
        logprobs = {token: SimpleNamespace(logprob=-3.0) for token in (*wanted, params.stop_token_ids[0])}
        output = SimpleNamespace(
            finish_reason="stop", token_ids=[65, params.stop_token_ids[0]], logprobs=[logprobs], cumulative_logprob=-3.0
        )
        return [SimpleNamespace(request_id=id, finished=True, outputs=[output])]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    modules = {
        name: ModuleType(name) for name in ("vllm", "vllm.exceptions", "vllm.lora", "vllm.lora.request", "vllm.sampling_params")
    }
    modules["vllm"].EngineArgs = dict  # type: ignore[attr-defined]
    modules["vllm"].LLMEngine = SimpleNamespace(from_engine_args=StandIn)  # type: ignore[attr-defined]
    modules["vllm"].SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    modules["vllm.exceptions"].VLLMClientError = Refused  # type: ignore[attr-defined]
    modules["vllm.lora.request"].LoRARequest = lambda *given: given  # type: ignore[attr-defined]
    modules["vllm.sampling_params"].RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("VLLM_NO_USAGE_STATS", *vllm_module.QUIET):
        monkeypatch.setenv(name, "as before")
    monkeypatch.setattr(StandIn, "started", [])
    monkeypatch.setattr(StandIn, "living", 0)
    return StandIn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder: Path, stand_in: type[StandIn]) -> VllmModel:
    return VllmModel(Model(path=str(folder), engine="vllm"))


def asked(count: int, prefix: str = "r", **sampling: Any) -> list[Request]:
    settings = Sampling(**({"temperature": 0.0} | sampling))
    return [Request(f"{prefix}{n}", (user("hello " * (n + 1)),), settings, n) for n in range(count)]


def test_nothing_starts_before_it_is_asked(model: VllmModel) -> None:
    engine = VllmEngine(model)
    assert engine.name == "tiny" and engine.count_tokens([user("hello")]) > 0 and engine.context_length == 512
    assert list(engine.generate(asked(3), skip={"r0", "r1", "r2"})) == [] and StandIn.started == []
    assert sorted(c.id for c in engine.generate(asked(3), skip={"r1"})) == ["r0", "r2"]
    assert len(StandIn.started) == StandIn.living == 1
    assert engine.context_length == 400, "what the cache can hold"
    model.close()
    assert StandIn.living == 0


def test_iterators_share_a_model_and_one_that_is_dropped_takes_its_rows_back(model: VllmModel) -> None:
    engine = VllmEngine(model)
    options = [OptionRequest(f"r{n}", (user("x " * n),), ("A", "B")) for n in range(5)]
    pairs = list(zip(engine.generate(asked(5)), engine.score_options(options), strict=True))
    assert sorted(c.id for c, _ in pairs) == sorted(s.id for _, s in pairs) == [f"r{n}" for n in range(5)]
    assert all(c.finish_reason == "stop" and c.completion_tokens == 2 for c, _ in pairs)
    dropped = engine.generate(asked(5))
    next(dropped)
    dropped.close()
    assert model._engine.waiting == {} and model._pending == {}


def test_no_more_is_in_flight_than_the_bound(model: VllmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_module, "AHEAD", 4)
    engine = VllmEngine(model)
    assert len(list(engine.generate(asked(30)))) == 30 and model._engine.most == 4
    hot = asked(30, prefix="hot", temperature=3.0)
    errors = Counter(c.error for c in engine.generate([*hot, *asked(3)]))
    assert errors == {"Refused: too hot": 30, None: 3}


def test_the_row_that_vllm_dies_of_is_found_and_recorded(model: VllmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 rows: halved to 10, 5, 2 or 3, 1: at most 6 times it dies, and is started again each time but after the last."""
    fatal = render(model.tokenizer, asked(20)[13].messages)
    monkeypatch.setattr(StandIn, "fatal", staticmethod(lambda prompt: prompt == fatal))
    found = {c.id: c.error for c in VllmEngine(model).generate(asked(20))}
    assert len(found) == 20 and {id: error for id, error in found.items() if error} == {"r13": "RuntimeError: EngineDeadError"}
    assert 2 < len(StandIn.started) <= 7 and StandIn.living == 1


def test_a_vllm_that_dies_of_everything_is_not_started_for_ever(model: VllmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "fatal", staticmethod(lambda prompt: True))
    rows = list(VllmEngine(model).generate(asked(200)))
    assert len(rows) == 200 and all(row.error for row in rows)
    assert len(StandIn.started) == vllm_module.MOST_CRASHES and StandIn.living == 0
    with pytest.raises(UserError, match="failed 16 times in a row"):
        list(VllmEngine(model).generate(asked(1)))


def test_adapters_make_room_by_rank(model: VllmModel, folder: Path, tmp_path: Path) -> None:
    def adapter(stage: str, rank: int) -> Path:
        path = tmp_path / stage / "adapter"
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text(json.dumps({"r": rank}))
        return path

    list(VllmEngine(model).generate(asked(1)))
    sft = VllmEngine(model, adapter("20-sft", 12))
    assert sft.name == "tiny+20-sft" and StandIn.living == 0, "it was started without room for any"
    dpo = VllmEngine(model, adapter("40-dpo", 16))
    rows = [row for engine in (sft, dpo, VllmEngine(model), sft) for row in engine.generate(asked(1))]
    assert [row.error for row in rows] == [None] * 4
    assert [settings.get("max_lora_rank") for settings in StandIn.started] == [None, 16]
    first, second = (str(tmp_path / stage / "adapter") for stage in ("20-sft", "40-dpo"))
    assert model._engine.adapters == [(first, 1, first), (second, 2, second), (first, 1, first)]
    with pytest.raises(UserError, match="up to rank 512"):
        VllmEngine(model, adapter("big", 1024))
    with pytest.raises(UserError, match="There is no adapter"):
        VllmEngine(model, tmp_path / "nowhere")


def test_the_base_is_in_memory_once(stand_in: type[StandIn], folder: Path) -> None:
    """vLLM has it to answer, transformers to train; whoever needs it next takes it over."""
    loads: list[int] = []
    recipe = load_recipe("quickstart", ["model.engine=vllm", f"model.path={folder}"])
    pool = ModelPool(recipe, Silent(), on_load=lambda: loads.append(StandIn.living))
    list(pool.guests()("same").generate(asked(1)))
    assert StandIn.living == 1 and pool._base is None
    base = pool.base_for_training()
    assert StandIn.living == 0 and pool.base() is base
    list(pool.engine().generate(asked(1)))
    assert StandIn.living == 1 and pool._base is None
    pool.close()
    assert StandIn.living == 0 and loads == [0, 0, 0]


def guarded(told: str) -> None:
    """Stands for a run whose vLLM is a `sleep`."""
    child = subprocess.Popen(["sleep", "100"])
    guard = vllm_module._end_with_us([child.pid])
    Path(told).write_text(f"{child.pid}\n")
    child.wait()
    assert guard is not None


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_after_a_kill_vllm_ends_too(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    run = start(guarded, str(told))
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int(told.read_text())
    assert lives(pid)
    run.kill()
    run.join()
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


VLLM = "model.engine=vllm"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.quantization=nf4"], "`vllm` was not tried with a base in 4 bits"),
        (["optimizer=grpo", "grpo.rewards.model=0", "grpo.rewards.judge=1"], "cannot judge while grpo trains on the same card"),
        (["judge.model=./other"], "`model.engine: vllm` fills the card, and ./other has no room beside it"),
        (["revise.critic=sandbox"], "name the model itself `same`"),
    ],
)
def test_what_vllm_cannot_do_is_refused(settings: list[str], said: str) -> None:
    constitution = load_constitution("telehealth")
    with pytest.raises(UserError, match=re.escape(said)):
        check_recipe(load_recipe("quickstart", [VLLM, *settings]), constitution)
    check_recipe(load_recipe("quickstart", [VLLM, "optimizer=ppo"]), constitution)


def test_the_engine_changes_answers_and_nothing_that_is_trained(tmp_path: Path) -> None:
    """Keys of stages. Those of transformers are what they were before there was a choice: the engine is not in them."""
    constitution = load_constitution("telehealth")
    found = []
    for settings in ([], [VLLM]):
        recipe = load_recipe("quickstart", settings)
        found.append({stage.name: stage.ingredients(recipe, constitution, tmp_path) for stage in stages_of(recipe)})
    transformers, vllm = found
    other = {name for name in transformers if transformers[name] != vllm[name]}
    assert other == {"10-revise", "25-audit", "30-pairs", "50-evaluate"}
    assert not any("model.engine" in ingredients for ingredients in transformers.values())


def test_plan_counts_what_vllm_needs_at_least(tmp_path: Path) -> None:
    """One row at a time: the size of a batch no longer counts."""
    plans = [
        plan(load_recipe("quickstart", settings), tmp_path) for settings in ([], [VLLM], [VLLM, "model.max_batch_tokens=512"])
    ]
    totals = [{memory.stage: memory.total for memory in found.advice.memory} for found in plans if found.advice]
    assert totals[1] == totals[2]
    assert totals[1]["10-revise"] < totals[0]["10-revise"] and totals[1]["40-dpo"] == totals[0]["40-dpo"]
    told = [any("vLLM takes what is free of the card" in note for note in found.notes) for found in plans]
    assert told == [False, True, True]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_run_does_not_begin_without_vllm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs vLLM"):
        run(load_recipe("quickstart", [VLLM]), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_extra_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"needs vLLM: pip install 'rlaif-dpo\[vllm\]'"):
        list(VllmEngine(VllmModel(Model(path=str(folder)))).generate(asked(1)))
