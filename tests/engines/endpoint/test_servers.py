"""Servers that people run, started here on the sandbox model. One that is not installed is skipped.

vLLM lives in an environment of its own, whose `vllm` program RLAIF_DPO_VLLM names; for llama.cpp see `tests/llama_cpp.py`.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines.base import Engine, OptionRequest, Request, Sampling
from rlaif_dpo.engines.endpoint import EndpointEngine
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.judges.base import Judgment
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.models.load import load_model
from rlaif_dpo.models.source import model_folder
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import Endpoint, JudgeSettings, Model
from rlaif_dpo.sandbox.gold import gold_items
from tests.llama_cpp import PYTHON, needs_llama_cpp

pytestmark = pytest.mark.slow

STARTS_IN_S = 240
VLLM = os.environ.get("RLAIF_DPO_VLLM", "")
SETTINGS = JudgeSettings()
ITEMS = gold_items(load_constitution("telehealth"), SETTINGS, 16, seed=5)


@contextmanager
def served(command: Sequence[str], port: int, env: dict[str, str], alive: str = "health") -> Iterator[str]:
    """The server's URL, for as long as it is wanted."""
    server = subprocess.Popen(
        command, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + STARTS_IN_S
        while not answers(f"http://127.0.0.1:{port}/{alive}"):
            assert server.poll() is None and time.monotonic() < deadline, f"{command[0]} does not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def local() -> Engine:
    return TransformersEngine(load_model(Model()))


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("uvicorn") is None or find_spec("fastapi") is None:
        pytest.skip("transformers[serving] is not installed")
    folder, port = str(model_folder("sandbox")), free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", folder, "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with served(command, port, {"HF_HOME": str(tmp_path_factory.mktemp("hub"))}) as url:
        yield url


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    if not shutil.which(VLLM):
        pytest.skip("RLAIF_DPO_VLLM names no vLLM")
    port = free_port()
    command = [VLLM, "serve", str(model_folder("sandbox")), "--served-model-name", "sandbox", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"]
    env = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
    with served(command, port, env) as url:
        yield url


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sandbox model as llama.cpp reads it."""
    pytest.importorskip("gguf")
    from rlaif_dpo.export.gguf import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "sandbox.gguf"
    write_gguf(model_folder("sandbox"), path, "sandbox", Silent())
    return path


@contextmanager
def llama_cpp(model: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = [PYTHON, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "sandbox", "--n_ctx", "2048"]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    with served(command, port, {"PYTHONPATH": ""}, alive="v1/models") as url:
        yield url


def judged(engine: Engine) -> dict[str, Judgment]:
    judge = PairwiseJudge(engine, SETTINGS)
    return {judgment.id: judgment for judgment in judge.compare([item.comparison for item in ITEMS])}


def sides(judgments: dict[str, Judgment]) -> dict[tuple[str, str], bool]:
    """Which side each clear verdict is on. A true tie has none: rounding decides there."""
    verdicts = {(id, verdict.principle_id): verdict.p for id, found in judgments.items() for verdict in found.verdicts}
    return {of: p > 0.5 for of, p in verdicts.items() if p is not None and abs(p - 0.5) > 0.2}


@contextmanager
def engine_on(url: str, model: str, **settings: object) -> Iterator[tuple[EndpointEngine, list[str]]]:
    said: list[str] = []
    engine = EndpointEngine(Endpoint(base_url=url, model=model, concurrency=8, **settings), None, said.append, "desk")
    try:
        yield engine, said
    finally:
        engine.close()


def test_transformers_serve_gives_hard_labels(transformers_serve: str, local: Engine) -> None:
    """It takes `logprobs`, `temperature` and `seed`, gives no log-probabilities and stays greedy: its votes would be copies.

    Both orders of 16 pairs under every principle, one verdict each.
    """
    expected = sides(judged(local))
    with engine_on(transformers_serve, str(model_folder("sandbox"))) as (engine, said):
        found = judged(engine)
    assert {judgment.source for judgment in found.values()} == {"hard"}
    assert any("gives no log-probabilities" in sentence for sentence in said)
    assert any("its 8 votes would be copies of one" in sentence for sentence in said)
    agree = [sides(found).get(id) == side for id, side in expected.items()]
    assert len(agree) >= 10 and sum(agree) / len(agree) >= 0.9


def test_transformers_serve_answers(transformers_serve: str) -> None:
    with engine_on(transformers_serve, str(model_folder("sandbox"))) as (engine, _):
        asked = Request("r", (user("I have a sore elbow. What could help?"),), Sampling(0.0, max_new_tokens=40), 1)
        (completion,) = engine.generate([asked])
    assert completion.outcome == "ok" and completion.completion_tokens > 3


def check_labels(found: dict[str, Judgment], said: Sequence[str], expected: dict[str, Judgment], apart: float) -> None:
    """The bar is the same preference on 97 % of the pairs; p itself differs by rounding."""
    assert {judgment.source for judgment in found.values()} == {"logprob"}
    assert any("log-probabilities of up to 20 tokens" in sentence for sentence in said)
    assert max(abs(found[id].p - judgment.p) for id, judgment in expected.items()) < apart
    agree = [sides(found).get(id) == side for id, side in sides(expected).items()]
    assert len(agree) >= 10 and sum(agree) / len(agree) >= 0.97


def test_vllm_gives_the_labels_of_the_local_judge(vllm: str, local: Engine) -> None:
    with engine_on(vllm, "sandbox") as (engine, said):
        found = judged(engine)
    check_labels(found, said, judged(local), apart=0.01)


@needs_llama_cpp
def test_llama_cpp_gives_the_labels_of_the_local_judge(gguf: Path, local: Engine) -> None:
    """Its weights are float16, so p is rounded more coarsely."""
    with llama_cpp(gguf) as url, engine_on(url, "sandbox") as (engine, said):
        found = judged(engine)
    check_labels(found, said, judged(local), apart=0.05)


@needs_llama_cpp
def test_llama_cpp_without_the_logits_of_every_token_votes(gguf: Path) -> None:
    """With `--logits_all false` it answers 500 to `logprobs`, and draws."""
    with llama_cpp(gguf, "--logits_all", "false") as url, engine_on(url, "sandbox", votes=2) as (engine, said):
        (scores,) = engine.score_options([OptionRequest("r", (user("Which is right, A or B?"),), ("A", "B"), seed=1)])
    assert scores.source == "vote" and scores.spent.attempts == 2
    assert any("does not take logprobs as it was sent" in sentence for sentence in said)
