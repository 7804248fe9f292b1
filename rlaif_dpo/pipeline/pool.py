"""The models of a run: one base, loaded once and only if a stage needs it, its adapters, and passing guests."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_dpo.engines.base import Engine
from rlaif_dpo.recipe.schema import Model

if TYPE_CHECKING:
    from rlaif_dpo.models.load import LoadedModel


class ModelPool:
    """Loads the base at most once; calls `on_load` then."""

    def __init__(self, settings: Model, on_load: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_load = on_load
        self._base: LoadedModel | None = None

    def base(self) -> "LoadedModel":
        """The base model, without any adapter taking part unless it is asked for by name."""
        if self._base is None:
            from rlaif_dpo.models.load import load_model

            self._base = load_model(self._settings)
            self._on_load()
        return self._base

    def engine(self, adapter: Path | None = None) -> Engine:
        """An engine over the base, or over the base with the adapter saved at `<stage>/adapter`, named after its stage."""
        from rlaif_dpo.engines.transformers import TransformersEngine
        from rlaif_dpo.models.adapters import adapter_names, add_adapter

        if adapter is None:
            return TransformersEngine(self.base(), max_batch_tokens=self._settings.max_batch_tokens)
        name = adapter.parent.name
        if name not in adapter_names(self.base()):
            add_adapter(self.base(), adapter, name)
        return TransformersEngine(self.base(), adapter=name, max_batch_tokens=self._settings.max_batch_tokens)

    @contextmanager
    def guest(self, path: str) -> Iterator[Engine]:
        """The engine of a critic or judge: the base for `same`, else another model that is let go at the end."""
        if path == "same":
            yield self.engine()
            return
        from rlaif_dpo.engines.transformers import TransformersEngine
        from rlaif_dpo.models.load import load_model

        settings = self._settings.model_copy(update={"path": path})
        yield TransformersEngine(load_model(settings), max_batch_tokens=settings.max_batch_tokens)

    def base_for_training(self) -> "LoadedModel":
        """The base, once the memory of models that are gone is given back. Trainers take all adapters off it."""
        release_memory()
        return self.base()


def release_memory() -> None:
    """Give the memory of models that are no longer referred to back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
