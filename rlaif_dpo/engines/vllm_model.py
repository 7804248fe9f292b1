"""A model in vLLM: started when it is first asked, stopped to make room for training, started again when it is asked again."""

import json
import math
import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from rlaif_dpo.engines.base import NO_VLLM, Sampling
from rlaif_dpo.errors import UserError
from rlaif_dpo.models.chat import stop_ids, template_hash
from rlaif_dpo.models.hardware import default_device, release_memory, resolve_dtype
from rlaif_dpo.models.load import load_config, load_tokenizer
from rlaif_dpo.models.source import model_source, short_name
from rlaif_dpo.recipe.schema import Model

AHEAD = 1024
"""Requests that vLLM has at once, at most: it never waits for more, and its memory does not grow with the rows."""
MOST_LOGPROBS = 128
"""Tokens of one request whose log-probabilities vLLM gives."""
MOST_CRASHES = 16
"""In a row: enough to find the one row in 2^16 that vLLM dies of, by halving; after that it is not started again."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for; an adapter may have a smaller one."""
OF_FREE = 0.92
"""The share of a card's free memory that vLLM takes: what the weights leave of it holds keys and values."""
ON_CPU = 4 * 2**30
"""Bytes for keys and values without a card; VLLM_CPU_KVCACHE_SPACE (in GiB) overrides it."""
ENDS_IN_S = 30
"""How long vLLM's process may take to end; by then it was killed."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""Set before vLLM is imported, unless the user has set it. A process that has used torch cannot be forked safely."""

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Asked:
    """An answer of at most `room` tokens, or, with `wanted`, the log-probabilities of these tokens right after the prompt."""

    id: str
    prompt: Sequence[int]
    room: int = 1
    sampling: Sampling = GREEDY
    seed: int = 0
    wanted: Sequence[int] = ()


@dataclass(frozen=True)
class Answer:
    """What came back: the tokens, the one that ended them included, and the log-probabilities that were wanted.

    `finite` is whether all log-probabilities of the tokens are. With `error` set there is nothing else.
    """

    id: str
    tokens: tuple[int, ...] = ()
    logprobs: Mapping[int, float] = field(default_factory=dict)
    finite: bool = True
    error: str | None = None


class VllmModel:
    """Weights in a process of vLLM's, and what there is to know of the model without them.

    Args:
        settings: The recipe's `model`. No weights are read yet.
        make_room: Called before vLLM starts and takes what is free of the card.

    Attributes:
        context_length: The most tokens prompt and completion may have together; once started, no more than the cache can hold.
        stop: The token ids that end an answer.

    Raises:
        UserError: As `load_tokenizer`.
    """

    def __init__(self, settings: Model, make_room: Callable[[], None] = lambda: None) -> None:
        self._settings, self._make_room = settings, make_room
        self.tokenizer, self.context_length, _ = load_tokenizer(settings)
        self.name, self.template_hash = short_name(settings.path), template_hash(self.tokenizer)
        self.dtype = resolve_dtype(settings.dtype)
        self.stop = stop_ids(self.tokenizer, _configured_stop(settings))
        self._ranks: dict[Path, int] = {}
        self._engine: Any = None
        self._processes: list[BaseProcess] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._count = self._crashes = 0
        self._pending: dict[str, Any] = {}
        self._running: dict[str, Path | None] = {}

    def admit(self, adapter: Path) -> None:
        """Let requests name the adapter in this folder. vLLM starts anew for one that is larger than those it knows.

        Raises:
            UserError: There is none, or its rank is more than vLLM takes.
        """
        config = adapter / "adapter_config.json"
        if not config.is_file():
            raise UserError(f"There is no adapter in {adapter} (adapter_config.json): run the stage that trains it.")
        rank = int(json.loads(config.read_text(encoding="utf-8"))["r"])
        if rank > RANKS[-1]:
            raise UserError(
                f"vLLM takes adapters up to rank {RANKS[-1]}, and {adapter} has {rank}: set model.engine: transformers"
            )
        before = self._room_for_adapters()
        self._ranks[adapter.resolve()] = rank
        if self._room_for_adapters() != before:
            self.close()

    def start(self) -> None:
        """Start vLLM if it is not running.

        Raises:
            UserError: It is not installed, or cannot run this model here.
        """
        if self._engine is not None:
            return
        if self._crashes == MOST_CRASHES:
            raise UserError(
                f"vLLM failed {MOST_CRASHES} times in a row; its own words stand above. Set model.engine=transformers"
            )
        self._make_room()
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError as error:
            if error.name == "vllm":
                raise UserError(NO_VLLM) from None
            raise UserError(f"vLLM is installed and cannot be imported: {_one_line(error)}") from None
        before = {child.pid for child in active_children()}
        try:
            self._engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=model_source(self._settings.path),
                    dtype=str(self.dtype).removeprefix("torch."),
                    load_format="safetensors",
                    trust_remote_code=self._settings.trust_remote_code,
                    skip_tokenizer_init=True,  # prompts go in as token ids, and answers come out as such
                    generation_config="vllm",
                    max_model_len=-1,  # as much of the context as fits
                    enable_prefix_caching=True,
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    **self._memory(),
                    **self._room_for_adapters(),
                )
            )
        except Exception as error:  # it has kinds of its own for each of its parts
            self._crashes += 1
            raise UserError(
                f"vLLM could not start with {self._settings.path}: {_one_line(error)} (its own words stand above, if it had any; "
                "model.engine: transformers runs what transformers runs)"
            ) from None
        self._processes = [child for child in active_children() if child.pid not in before]
        self._guard = _end_with_us([child.pid for child in self._processes])
        self.context_length = min(self.context_length, int(self._engine.model_config.max_model_len))

    def close(self) -> None:
        """Stop vLLM. Its process ends, and with it all of its memory is free."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._pending.clear()
            self._running.clear()
            engine.engine_core.shutdown()
            for process in self._processes:
                process.join(ENDS_IN_S)
            if self._guard is not None:
                self._guard.kill()
                self._guard.communicate()
            del engine
            release_memory()

    def answers(self, asked: Sequence[Asked], adapter: Path | None) -> Iterator[Answer]:
        """In finishing order. Other such iterators may be under way; what is asked by one that is dropped is taken back.

        Raises:
            Exception: vLLM failed and was closed; or it was closed meanwhile by somebody else.
        """
        self.start()
        from vllm.exceptions import VLLMClientError as refused

        engine, todo, mine = self._engine, deque(asked), dict[str, str]()
        try:
            while self._engine is engine:
                while todo and len(mine) < AHEAD and self._may_join(adapter):
                    one = todo.popleft()
                    try:
                        mine[self._add(one, adapter)] = one.id
                    except (ValueError, refused) as error:  # the row's fault, not vLLM's
                        yield Answer(one.id, error=_one_line(error))
                if not mine and not todo:
                    return
                done = [id for id in mine if self._pending[id] is not None]
                yield from [_answer(mine.pop(id), self._pending.pop(id)) for id in done]
                if not done:
                    self._step()
            raise RuntimeError("vLLM was stopped while it answered")
        except Exception:
            if self._engine is engine:
                self._crashes += 1
                self.close()
            raise
        finally:
            if self._engine is engine and mine:
                engine.abort_request(list(mine))
                for id in mine:
                    del self._pending[id]
                    self._running.pop(id, None)

    def _may_join(self, adapter: Path | None) -> bool:
        """Whether a row may be in a batch with those under way: on a CPU only with rows of the same adapter, or of none as well.

        There vLLM's kernels read the number of the bare model, -1, as that of the last adapter.
        """
        return default_device().type == "cuda" or next(iter(self._running.values()), adapter) == adapter

    def _add(self, one: Asked, adapter: Path | None) -> str:
        """The id by which vLLM knows the request: rows of several engines may be called the same."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        wanted = {"logprob_token_ids": list(one.wanted)} if one.wanted else {"logprobs": 0}
        params = SamplingParams(
            temperature=one.sampling.temperature,
            top_p=one.sampling.top_p,
            max_tokens=one.room,
            seed=one.seed,
            stop_token_ids=sorted(self.stop),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **wanted,
        )
        lora = None
        if adapter is not None:
            path = adapter.resolve()
            lora = LoRARequest(str(path), 1 + list(self._ranks).index(path), str(path))
        self._count += 1
        id = str(self._count)
        self._engine.add_request(id, {"prompt_token_ids": list(one.prompt)}, params, lora_request=lora)
        self._pending[id], self._running[id] = None, adapter
        return id

    def _step(self) -> None:
        outputs = self._engine.step()
        self._crashes = 0 if outputs else self._crashes
        for output in outputs:
            if output.finished and output.request_id in self._pending:
                self._pending[output.request_id] = output.outputs[0]
                del self._running[output.request_id]

    def _memory(self) -> dict[str, Any]:
        device = default_device()
        if device.type != "cuda":
            return {"kv_cache_memory_bytes": ON_CPU, "enforce_eager": True}
        free, total = torch.cuda.mem_get_info(device)
        return {"gpu_memory_utilization": OF_FREE * free / total}

    def _room_for_adapters(self) -> dict[str, Any]:
        """What vLLM must know of adapters before it starts; without any, it runs the bare model faster."""
        if not self._ranks:
            return {}
        return {"enable_lora": True, "max_lora_rank": next(rank for rank in RANKS if rank >= max(self._ranks.values()))}


def _end_with_us(processes: Sequence[int | None]) -> "subprocess.Popen[bytes] | None":
    """A shell that ends `processes` when this one is gone, however it went. After `kill -9` vLLM's would keep the card."""
    if not processes:
        return None
    command = f"read line; kill -9 {' '.join(map(str, processes))}"
    return subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def _configured_stop(settings: Model) -> int | list[int] | None:
    """What the model's files say ends an answer."""
    found: int | list[int] | None
    try:
        found = GenerationConfig.from_pretrained(model_source(settings.path)).eos_token_id
    except OSError:  # it has no generation_config.json
        found = getattr(load_config(settings).get_text_config(), "eos_token_id", None)
    return found


def _answer(id: str, output: Any) -> Answer:
    if output.finish_reason not in ("stop", "length") or not output.token_ids:
        return Answer(id, error=f"vLLM ended the request with {output.finish_reason}")
    logprobs = {token: found.logprob for token, found in output.logprobs[0].items()}
    return Answer(id, tuple(output.token_ids), logprobs, math.isfinite(output.cumulative_logprob))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
