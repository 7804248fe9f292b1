"""Adapters on a shared base: add, drop, and compute with one of them for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError

from rlaif_dpo.errors import UserError
from rlaif_dpo.models.load import LoadedModel


def add_adapter(loaded: LoadedModel, path: Path | str, name: str) -> None:
    """Load the adapter folder `path` as `name`, frozen, its weights in float32. An adapter of that name is replaced.

    Raises:
        UserError: no adapter in `path`, or one made for another model.
    """
    if not (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"There is no adapter in {path} (adapter_config.json): run the stage that trains it.")
    if name in adapter_names(loaded):
        drop_adapter(loaded, name)
    try:
        if isinstance(loaded.model, PeftModel):
            loaded.model.load_adapter(str(path), adapter_name=name, is_trainable=False)
        else:
            loaded.model = PeftModel.from_pretrained(loaded.model, str(path), adapter_name=name, is_trainable=False)
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"The adapter in {path} does not fit {loaded.path}: {' '.join(str(error).split())[:300]}") from None
    for parameter_name, parameter in loaded.model.named_parameters():
        if f".{name}." in parameter_name:
            parameter.data = parameter.data.to(torch.float32)
    loaded.model.eval()


def drop_adapter(loaded: LoadedModel, name: str) -> None:
    """Remove an adapter; after the last one `loaded.model` is the bare base again."""
    if adapter_names(loaded) == (name,):
        loaded.model = loaded.model.unload()
    else:
        loaded.model.delete_adapter(name)


def adapter_names(loaded: LoadedModel) -> tuple[str, ...]:
    """The adapters on the base, in the order they were added."""
    return tuple(loaded.model.peft_config) if isinstance(loaded.model, PeftModel) else ()


@contextmanager
def use_adapter(loaded: LoadedModel, adapter: str | None) -> Iterator[None]:
    """Compute with `adapter`, or with the bare base for None, in eval mode and without gradients.

    Everything is put back afterwards: train mode, the active adapter, and `requires_grad`, which peft's own switches change.
    """
    model = loaded.model
    training = model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    try:
        # Not inference_mode: what a layer caches in its first forward pass would later be refused by the backward pass.
        with torch.no_grad():
            if not isinstance(model, PeftModel):
                yield
            elif adapter is None:
                with model.disable_adapter():
                    yield
            else:
                before = model.active_adapter
                model.set_adapter(adapter, inference_mode=True)
                try:
                    yield
                finally:
                    model.set_adapter(before, inference_mode=True)
    finally:
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)
