"""The models of a run: one base, loaded once and only if a stage needs it, its adapters, passing guests, and endpoints."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_dpo.engines.base import Engine
from rlaif_dpo.errors import UserError
from rlaif_dpo.progress import Progress
from rlaif_dpo.recipe.schema import Recipe

if TYPE_CHECKING:
    from rlaif_dpo.engines.endpoint import EndpointEngine
    from rlaif_dpo.engines.store import CallStore
    from rlaif_dpo.engines.vllm_model import VllmModel
    from rlaif_dpo.models.load import LoadedModel


class ModelPool:
    """Loads the base at most once, and opens each endpoint at most once.

    With `model.engine: vllm` the base is in memory once, too: vLLM has it to answer, or it is loaded to be trained.

    Args:
        recipe: Names the models and the endpoints.
        progress: Hears what endpoints say, and is shown what they cost.
        store: The file with what was bought before; None: nothing is kept.
        on_load: Called when the base is loaded, by whichever library.
        policy: The adapter of the run's SFT model, for a judge that is called `policy`.
    """

    def __init__(
        self,
        recipe: Recipe,
        progress: Progress,
        store: Path | None = None,
        on_load: Callable[[], None] = lambda: None,
        policy: Path | None = None,
    ) -> None:
        self._settings = recipe.model
        self._endpoints = recipe.endpoints
        self._progress, self._store_path = progress, store
        self._on_load, self._policy = on_load, policy
        self._base: LoadedModel | None = None
        self._vllm: VllmModel | None = None
        self._store: CallStore | None = None
        self._open: dict[str, EndpointEngine] = {}

    def base(self) -> "LoadedModel":
        """The base model, without any adapter taking part unless it is asked for by name."""
        if self._base is None:
            from rlaif_dpo.models.load import load_model

            if self._vllm is not None:
                self._vllm.close()
            self._base = load_model(self._settings)
            self._on_load()
        return self._base

    @property
    def max_batch_tokens(self) -> int:
        """The size of a batch on the base."""
        return self._settings.max_batch_tokens

    def engine(self, adapter: Path | None = None) -> Engine:
        """An engine over the base, or over the base with the adapter saved at `<stage>/adapter`, named after its stage."""
        if self._settings.engine == "vllm":
            return self._vllm_engine(adapter)
        from rlaif_dpo.engines.transformers import TransformersEngine
        from rlaif_dpo.models.adapters import adapter_names, add_adapter

        if adapter is None:
            return TransformersEngine(self.base(), max_batch_tokens=self._settings.max_batch_tokens)
        name = adapter.resolve().parent.name.replace(".", "_")  # torch finds modules by dotted names
        if name not in adapter_names(self.base()):
            add_adapter(self.base(), adapter, name)
        return TransformersEngine(self.base(), adapter=name, max_batch_tokens=self._settings.max_batch_tokens)

    def _vllm_engine(self, adapter: Path | None) -> Engine:
        from rlaif_dpo.engines.vllm import VllmEngine
        from rlaif_dpo.engines.vllm_model import VllmModel

        if self._vllm is None:
            self._vllm = VllmModel(self._settings, make_room=self._unload)
        return VllmEngine(self._vllm, adapter)

    def _unload(self) -> None:
        """Take the base out of memory, so that vLLM can have it."""
        from rlaif_dpo.models.hardware import release_memory

        self._base = None
        release_memory()
        self._on_load()

    def guests(self, anew: bool = False) -> Callable[[str], Engine]:
        """Gives the engine of a drafter, critic or judge by its name: the base for `same`, `policy`, an endpoint, else a model.

        A model is loaded once, however often it is asked for, and lives as long as what is returned here. With `anew`, endpoints
        answer without the store.
        """
        return cache(partial(self._guest, anew=anew))

    def _guest(self, name: str, anew: bool) -> Engine:
        if name == "same":
            return self.engine()
        if name == "policy":
            if self._policy is None:
                raise UserError("`policy` is the SFT model of a run, and there is no run here; set judge.model=same")
            return self.engine(self._policy)
        if name in self._endpoints:
            return self._endpoint(name).anew() if anew else self._endpoint(name)
        from rlaif_dpo.engines.transformers import TransformersEngine
        from rlaif_dpo.models.load import load_model

        settings = self._settings.model_copy(update={"path": name})
        return TransformersEngine(load_model(settings), max_batch_tokens=settings.max_batch_tokens)

    def _endpoint(self, name: str) -> "EndpointEngine":
        """One engine for the whole run: its budget is the run's."""
        if name not in self._open:
            from rlaif_dpo.engines.endpoint import EndpointEngine
            from rlaif_dpo.engines.store import CallStore

            if self._store is None and self._store_path is not None:
                self._store = CallStore(self._store_path)
            if not self._open:
                self._progress.watch(self._spent)
            self._open[name] = EndpointEngine(self._endpoints[name], self._store, self._progress.say, name)
        return self._open[name]

    def _spent(self) -> str:
        """`412 bought, 88 had, $0.0123`."""
        spent = [engine.spending for engine in self._open.values()]
        prices = [part.usd for part in spent if part.usd is not None]
        usd = f", ${sum(prices):.4f}" if prices else ""
        return f"{sum(part.bought for part in spent)} bought, {sum(part.from_store for part in spent)} had{usd}"

    def close(self) -> None:
        """Close what is open: connections, the store, vLLM."""
        if self._vllm is not None:
            self._vllm.close()
        for engine in self._open.values():
            engine.close()
        if self._store is not None:
            self._store.close()
        self._open, self._store = {}, None

    def release(self) -> None:
        """Let the base go, so that other processes have its memory. It is loaded again when it is asked for."""
        if self._base is not None:
            from rlaif_dpo.models.hardware import release_memory

            self._base = None
            release_memory()

    def base_for_training(self) -> "LoadedModel":
        """The base, once the memory of models that are gone is given back. Trainers take all adapters off it."""
        from rlaif_dpo.models.hardware import release_memory

        release_memory()
        return self.base()
