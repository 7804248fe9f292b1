import socket

import pytest
import torch

from rlaif_dpo.errors import UserError
from rlaif_dpo.models import load as load_module
from rlaif_dpo.models.adapters import adapter_names, add_adapter, drop_adapter, use_adapter
from rlaif_dpo.models.hardware import describe_hardware, resolve_dtype
from rlaif_dpo.models.load import load_model, short_name
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.seeding import content_hash
from tests.tiny import CHATML, tiny_adapter_folder, tiny_model_folder

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="about the CPU")


def load(folder, **settings):
    return load_model(Model(path=str(folder), **settings))


def logits(loaded):
    ids = torch.arange(10, 18, device=loaded.device).unsqueeze(0)
    with torch.no_grad():
        return loaded.model(ids).logits.float().cpu()


def test_a_folder_loads_frozen_and_in_eval_mode(tmp_path):
    loaded = load(tiny_model_folder(tmp_path, "tiny-chat", context_length=77), dtype="float32")
    assert (loaded.name, loaded.context_length, loaded.dtype) == ("tiny-chat", 77, torch.float32)
    assert loaded.template_hash == content_hash(CHATML)
    assert loaded.tokenizer.padding_side == "left" and loaded.notes == ()
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"


@CPU_ONLY
def test_dtype_on_a_cpu():
    assert resolve_dtype("auto", torch.device("cpu")) is torch.float32
    assert resolve_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    hardware = describe_hardware()
    assert (
        hardware["device"] == "cpu" and hardware["dtype"] == "float32" and 0 < hardware["memory_free"] < hardware["memory_total"]
    )


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_dtype_by_compute_capability(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype("auto", torch.device("cuda", 0)) is dtype


def test_nf4_runs_here_and_stays_near_the_model(tmp_path):
    """4-bit weights are there (uint8 storage), and the logits move, by less than their own spread."""
    folder = tiny_model_folder(tmp_path, hidden_size=64, weight_scale=0.1)
    whole, quantised = load(folder, dtype="float32"), load(folder, dtype="float32", quantization="nf4")
    assert any(p.dtype == torch.uint8 for p in quantised.model.parameters())
    difference = (logits(whole) - logits(quantised)).abs().mean()
    assert 0 < difference < logits(whole).std()


def test_nf4_takes_an_adapter(tmp_path):
    folder = tiny_model_folder(tmp_path, hidden_size=64, weight_scale=0.1)
    loaded = load(folder, dtype="float32", quantization="nf4")
    before = logits(loaded)
    add_adapter(loaded, tiny_adapter_folder(folder, tmp_path), "sft")
    with use_adapter(loaded, "sft"):
        assert (logits(loaded) - before).abs().max() > 1e-3
    with use_adapter(loaded, None):
        assert torch.equal(logits(loaded), before)


def test_adapters_come_and_go(tmp_path):
    folder = tiny_model_folder(tmp_path)
    first, second = (tiny_adapter_folder(folder, tmp_path, f"adapter{i}", seed=i) for i in (1, 2))
    loaded = load(folder, dtype="bfloat16")
    bare = logits(loaded)
    add_adapter(loaded, first, "sft")
    add_adapter(loaded, second, "dpo")
    assert adapter_names(loaded) == ("sft", "dpo")
    weights = [p for n, p in loaded.model.named_parameters() if "lora_" in n]
    assert weights and all(p.dtype == torch.float32 and not p.requires_grad for p in weights)
    seen = {}
    for name in ("sft", "dpo", None):
        with use_adapter(loaded, name):
            seen[name] = logits(loaded)
    assert torch.equal(seen[None], bare)
    assert not torch.equal(seen["sft"], bare) and not torch.equal(seen["sft"], seen["dpo"])
    add_adapter(loaded, second, "sft")
    with use_adapter(loaded, "sft"):
        assert torch.equal(logits(loaded), seen["dpo"])
    drop_adapter(loaded, "sft")
    drop_adapter(loaded, "dpo")
    assert adapter_names(loaded) == () and torch.equal(logits(loaded), bare)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_use_adapter_puts_everything_back(tmp_path):
    folder = tiny_model_folder(tmp_path)
    loaded = load(folder, dtype="float32")
    for i, name in enumerate(("default", "ref")):
        add_adapter(loaded, tiny_adapter_folder(folder, tmp_path, name, seed=i), name)
    loaded.model.set_adapter("default")
    loaded.model.train()
    trainable = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trainable and all(".default." in name for name in trainable)
    for name in (None, "ref"):
        with pytest.raises(RuntimeError, match="stop"), use_adapter(loaded, name):
            assert not loaded.model.training and not torch.is_grad_enabled()
            raise RuntimeError("stop")
        assert loaded.model.training and torch.is_grad_enabled() and loaded.model.active_adapter == "default"
        assert {n for n, p in loaded.model.named_parameters() if p.requires_grad} == trainable


def test_pad_token_is_not_eos(tmp_path):
    from transformers import AutoTokenizer

    folder = tiny_model_folder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    loaded = load(folder)
    assert loaded.tokenizer.pad_token == "<|pad|>" and "<|pad|> is used" in loaded.notes[0]


def _without(*patterns):
    def spoil(folder):
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without("*.safetensors"), "has no weights"),
        (_without("config.json"), "has no config.json"),
        (_without("tokenizer*"), "has no tokenizer"),
        (_without("chat_template.jinja"), "has no chat template"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "Could not load the weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "Could not load the config"),
    ],
)
def test_what_a_folder_lacks_is_said_in_one_line(tmp_path, spoil, said):
    folder = tiny_model_folder(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_no_model_and_a_model_no_adapter(tmp_path):
    folder = tiny_model_folder(tmp_path)
    adapter = tiny_adapter_folder(folder, tmp_path)
    with pytest.raises(UserError, match="is an adapter, not a model"):
        load(adapter)
    with pytest.raises(UserError, match="There is no adapter in"):
        add_adapter(load(folder), folder, "sft")


def test_an_adapter_of_another_model_does_not_fit(tmp_path):
    folder, larger = tiny_model_folder(tmp_path), tiny_model_folder(tmp_path, "larger", hidden_size=64)
    loaded = load(folder)
    with pytest.raises(UserError, match="does not fit"):
        add_adapter(loaded, tiny_adapter_folder(larger, tmp_path), "sft")


def test_missing_folders_and_the_hub(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="There is no model folder"):
        load(tmp_path / "nowhere")

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(load_module.AutoConfig, "from_pretrained", no_network)
    with pytest.raises(UserError, match="owner/model is no folder here, and the config of it could not be had") as caught:
        load("owner/model")
    assert "\n" not in str(caught.value)


def test_short_names():
    assert (short_name("sandbox"), short_name("Qwen/Qwen3-0.6B"), short_name("models/mine/")) == ("sandbox", "Qwen3-0.6B", "mine")
