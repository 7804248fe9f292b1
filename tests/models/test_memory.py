"""The estimate against what torch really holds: parameters on the meta device, activations and peaks on the CPU."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from rlaif_dpo.engines.base import OptionRequest, Request, Sampling
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.errors import UserError
from rlaif_dpo.messages import user
from rlaif_dpo.models.adapters import add_adapter
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.models.memory import (
    CONTEXT,
    GIB,
    Placed,
    adapter_parameters,
    generation_memory,
    scoring_memory,
    training_memory,
)
from rlaif_dpo.models.shapes import adapted, shapes_of
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Dpo, Lora, Sft
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.loop import continue_adapter
from rlaif_dpo.train.sft import new_adapter
from tests.models.families import family_folder
from tests.models.peak import Peak, saved_for_backward

LENGTH, PROMPT = 160, 40
WIDE = {"hidden": 128, "intermediate": 352, "layers": 4}

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
# name: class, SIZES, what else, parameters as published
PUBLIC: dict[str, tuple[Any, tuple[int, ...], dict[str, Any], float]] = {
    "Llama-3.1-8B": (LlamaConfig, (128256, 4096, 14336, 32, 32, 8), {}, 8.030e9),
    "Qwen2.5-7B": (Qwen2Config, (152064, 3584, 18944, 28, 28, 4), {}, 7.616e9),
    "Qwen3-4B": (Qwen3Config, (151936, 2560, 9728, 36, 32, 8), {"head_dim": 128, "tie_word_embeddings": True}, 4.022e9),
    "SmolLM2-135M": (LlamaConfig, (49152, 576, 1536, 30, 9, 3), {"tie_word_embeddings": True}, 134.5e6),
    "Mistral-7B-v0.3": (MistralConfig, (32768, 4096, 14336, 32, 32, 8), {}, 7.248e9),
    "Gemma-2-2b": (Gemma2Config, (256000, 2304, 9216, 26, 8, 4), {"head_dim": 256}, 2.614e9),
}


def public(name: str) -> Any:
    kind, sizes, more, _ = PUBLIC[name]
    return kind(**dict(zip(SIZES, sizes, strict=True)), **more)


@pytest.mark.parametrize("name", PUBLIC)
def test_parameters_of_public_models(name: str):
    """Counted from shapes, counted by torch on the meta device, and as published, to four digits."""
    config, published = public(name), PUBLIC[name][-1]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = shapes_of(config)
    assert shapes is not None
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    assert shapes.parameters == pytest.approx(published, rel=5e-4)


def load(tmp_path: Path, family: str, dtype: str = "float32", quantization: str = "none", **sizes: int) -> LoadedModel:
    folder = family_folder(tmp_path, family, **(WIDE | sizes))
    return load_model(Model.model_validate({"path": str(folder), "dtype": dtype, "quantization": quantization}))


def placed(loaded: LoadedModel, nf4: bool = False) -> Placed:
    shapes = shapes_of(loaded.model.config)
    assert shapes is not None
    return Placed(shapes, str(loaded.dtype).removeprefix("torch."), nf4, cuda=False)  # type: ignore[arg-type]


def test_weights_in_four_bits(tmp_path: Path):
    """0.5 + 1/64 + 4/(64 x 256) bytes a weight: everything that bitsandbytes holds, its code tables (1.1 kB a layer) aside."""
    loaded = load(tmp_path, "llama-3", quantization="nf4", hidden=256, intermediate=512)
    held = 0
    for parameter in loaded.model.parameters():
        held += parameter.numel() * parameter.element_size()
        if (state := getattr(parameter, "quant_state", None)) is not None:
            held += state.absmax.numel() * state.absmax.element_size()
            held += state.state2.absmax.numel() * state.state2.absmax.element_size()
    assert placed(loaded, nf4=True).weights == pytest.approx(held, rel=0.001)


def trained_step(loaded: LoadedModel, tmp_path: Path, stage: str, settings: Sft | Dpo, lora: Lora, padded: bool) -> Any:
    """A trainer of ours on two rows and its first micro-batch; one row is shorter where `padded`."""
    from rlaif_dpo.train.trl_adapter import dpo_trainer, sft_trainer

    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 250, (count,), generator=generator).tolist()

    lengths = [LENGTH - PROMPT, LENGTH - PROMPT - 30 * padded]
    answers = {"sft": lambda n: (ids(n),), "dpo": lambda n: (ids(n), ids(n - 10 * padded))}[stage]
    examples = [Example({"id": str(i), "p": 0.7}, ids(PROMPT), answers(n)) for i, n in enumerate(lengths)]
    if stage == "sft":
        policy = new_adapter(loaded.model, lora, 0)
        trainer: Any = sft_trainer(policy, examples, loaded, settings, tmp_path, 0)  # type: ignore[arg-type]
    else:
        policy = new_adapter(loaded.model, lora, 0)
        policy.save_pretrained(tmp_path / "sft")
        loaded.model = policy.unload()
        policy = continue_adapter(loaded.model, tmp_path / "sft", loaded)
        trainer = dpo_trainer(policy, examples, [], loaded, settings, tmp_path, 0)  # type: ignore[arg-type]
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.accelerator.prepare_model(trainer.model)
    if settings.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    model.train()
    return trainer, model, next(iter(trainer.get_train_dataloader()))


def known_tensors(trainer: Any, batch: dict[str, Any]) -> list[torch.Tensor]:
    return [*trainer.model.parameters(), *trainer.model.buffers(), *(v for v in batch.values() if isinstance(v, torch.Tensor))]


def test_the_counters_count():
    """1,000 floats are 4,000 bytes. Three tensors are made, two live at once; exp keeps its result, a product its two factors."""
    with Peak([]) as counted:
        first = torch.ones(1000)
        second = first + 1
        del first
        third = second * 2
        del second
    assert (counted.peak, counted.live) == (8000, 4000)
    del third
    assert counted.live == 0
    weights = torch.ones(1000, requires_grad=True)
    with saved_for_backward([weights]) as saved:
        powers = weights.exp()
        product = powers * powers.view(10, 100).flatten()
    assert product.requires_grad and sum(saved.values()) == 4000  # one storage: the result of exp is both factors
    with saved_for_backward([]) as saved:
        torch.mul(weights, torch.ones(1000))
    assert sum(saved.values()) == 4000  # only the other factor is needed


def within(estimate: float, measured: float) -> bool:
    """Never under by more than 5 %, never over by more than 15 %."""
    return 0.95 * measured <= estimate <= 1.15 * measured


CASES = [
    ("llama-3", "sft", "float32", {}),
    ("llama-3", "sft", "bfloat16", {}),
    ("llama-3", "dpo", "float32", {}),
    ("llama-3", "dpo", "bfloat16", {}),
    ("qwen3", "dpo", "float32", {}),
    ("qwen3", "sft", "bfloat16", {}),
    ("gemma-2", "sft", "float32", {}),
    ("gemma-2", "dpo", "bfloat16", {}),
    ("gemma-3", "sft", "bfloat16", {}),
    ("olmo-2", "sft", "bfloat16", {}),
    ("phi-3", "sft", "float32", {}),
    ("llama-3", "sft", "bfloat16", {"dropout": 0.1}),
    ("llama-3", "sft", "float32", {"target_modules": ("q_proj", "v_proj")}),
    ("llama-3", "sft", "bfloat16", {"r": 64, "alpha": 64}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "stage", "dtype", "adapter", "padded"),
    # a pair of DPO is of two lengths as good as always, so its estimate reckons with padding
    [(*case, padded) for padded in (True, False) for case in CASES if padded or case[1] == "sft"],
)
def test_what_autograd_keeps(tmp_path: Path, family: str, stage: str, dtype: str, adapter: dict[str, Any], padded: bool):
    """The sum of the tensors saved for the backward pass of a micro-batch in our trainers."""
    loaded, lora = load(tmp_path, family, dtype), Lora.model_validate(adapter)
    rows = 2 if padded else 1
    section = (Sft if stage == "sft" else Dpo).model_validate({"batch_size": rows, "max_length": LENGTH})
    trainer, model, batch = trained_step(loaded, tmp_path, stage, section, lora, padded)
    with saved_for_backward(known_tensors(trainer, batch)) as saved:
        loss = trainer.compute_loss(model, trainer._prepare_inputs(batch))
    assert torch.isfinite(loss)
    estimate = training_memory(stage, placed(loaded), lora, section, LENGTH, 2 if stage == "dpo" else 1)
    measured = sum(saved.values())
    print(f"KEPT {family:8} {stage} {dtype:8} {adapter} {padded=} {estimate.parts['activations'] / measured:.3f}")
    assert within(estimate.parts["activations"], measured)


@pytest.mark.slow
def test_what_autograd_keeps_of_a_base_in_four_bits(tmp_path: Path):
    """As much as of one in 16 bits: what is quantised is the weights."""
    loaded, lora, section = load(tmp_path, "llama-3", "bfloat16", "nf4"), Lora(), Sft(batch_size=2, max_length=LENGTH)
    trainer, model, batch = trained_step(loaded, tmp_path, "sft", section, lora, padded=True)
    with saved_for_backward(known_tensors(trainer, batch)) as saved:
        trainer.compute_loss(model, trainer._prepare_inputs(batch))
    estimate = training_memory("sft", placed(loaded, nf4=True), lora, section, LENGTH)
    print(f"KEPT in 4 bits {estimate.parts['activations'] / sum(saved.values()):.3f}")
    assert within(estimate.parts["activations"], sum(saved.values()))


@pytest.fixture
def narrow_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tile of logits is 32,768 wide for any vocabulary: most of what a toy takes. Here it is as wide as the toy's."""
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", 272)
    monkeypatch.setattr("rlaif_dpo.models.memory.TILE", (4096, 272))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_tile")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("family", "stage", "dtype", "adapter"), CASES[:11])
def test_peak_of_a_training_step(
    tmp_path: Path, family: str, stage: str, dtype: str, adapter: dict[str, Any], checkpointing: bool
):
    """Forward, backward and the gradients of a micro-batch, with and without checkpointing; then what Adam holds, to the byte."""
    loaded, lora = load(tmp_path, family, dtype), Lora.model_validate(adapter)
    section = (Sft if stage == "sft" else Dpo).model_validate(
        {"batch_size": 2, "max_length": LENGTH, "gradient_checkpointing": checkpointing}
    )
    trainer, model, batch = trained_step(loaded, tmp_path, stage, section, lora, padded=True)
    optimiser = trainer.create_optimizer()
    gc.collect()
    with Peak(known_tensors(trainer, batch)) as counted:
        trainer.training_step(model, batch)
    estimate = training_memory(stage, placed(loaded), lora, section, LENGTH, 2 if stage == "dpo" else 1)
    trained = adapter_parameters(placed(loaded).shapes, lora)
    predicted = estimate.parts["activations"] + estimate.parts["logits"] + estimate.parts["other"] - CONTEXT["cpu"] + 4 * trained
    print(f"PEAK {family:8} {stage} {dtype:8} {checkpointing=} {predicted / counted.peak:.3f}")
    assert within(predicted, counted.peak)
    optimiser.step()
    states = [v for state in optimiser.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.numel() > 1]
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert sum(t.numel() * t.element_size() for t in states + gradients) == estimate.parts["optimiser"]
    adapters = [p for n, p in trainer.model.named_parameters() if "lora_" in n]
    assert sum(p.numel() * p.element_size() for p in adapters) == estimate.parts["adapters"]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("family", "dtype"), [("llama-3", "float32"), ("llama-3", "bfloat16"), ("gemma-2", "float32"), ("gemma-2", "bfloat16")]
)
def test_peak_of_sampling(tmp_path: Path, family: str, dtype: str, adapter: bool):
    """8 prompts of about a length: keys and values of every token, the pass over the prompts, logits of a position."""
    loaded = load(tmp_path, family, dtype)
    base, lora = placed(loaded), Lora()
    name = None
    if adapter:
        policy = new_adapter(loaded.model, lora, 0)
        policy.save_pretrained(tmp_path / "sft")
        loaded.model = policy.unload()
        add_adapter(loaded, tmp_path / "sft", "sft")
        name = "sft"
    words, new = "a" * 150, 24
    prompt = TransformersEngine(loaded).count_tokens([user(words)])
    engine = TransformersEngine(loaded, name, max_batch_tokens=8 * (prompt + new))
    requests = [Request(str(i), (user(words[i:]),), Sampling(temperature=1.0, max_new_tokens=new), i) for i in range(8)]
    trained = adapter_parameters(base.shapes, lora) if adapter else 0
    estimate = generation_memory("s", base, 8 * (prompt + new), prompt, new, trained)
    with Peak([*loaded.model.parameters(), *loaded.model.buffers()]) as counted:
        list(engine.generate(requests))
    predicted = sum(estimate.parts[part] for part in ("activations", "logits", "cache"))
    print(f"SAMPLE {family} {dtype} {adapter=} {predicted / counted.peak:.3f}")
    assert within(predicted, counted.peak)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("family", "dtype"), [("llama-3", "float32"), ("llama-3", "bfloat16"), ("gemma-2", "float32")])
def test_peak_of_scoring(tmp_path: Path, family: str, dtype: str, shared: float):
    """A batch of 8 prompts of one length that share so much of their beginning; the estimate is for the worst share."""
    loaded = load(tmp_path, family, dtype)
    count = 150
    beginning = "a" * int(shared * count)
    texts = [beginning + chr(ord("b") + i) * (count - i - len(beginning)) for i in range(8)]
    engine = TransformersEngine(loaded)
    prompt = engine.count_tokens([user(texts[0])])
    questions = [OptionRequest(str(i), (user(text),), ("A", "B"), i) for i, text in enumerate(texts)]
    with Peak([*loaded.model.parameters(), *loaded.model.buffers()]) as counted:
        list(TransformersEngine(loaded, None, max_batch_tokens=8 * prompt).score_options(questions))
    estimate = scoring_memory("s", placed(loaded), 8 * prompt, prompt)
    predicted = sum(estimate.parts[part] for part in ("activations", "logits", "cache"))
    print(f"SCORE {family} {dtype} {shared=} {predicted / counted.peak:.3f}")
    assert predicted >= 0.95 * counted.peak
    if shared == 0:
        assert predicted <= 1.15 * counted.peak


def test_what_makes_less_takes_less():
    """Each knob of the advice lowers the estimate; a reference costs its adapter alone."""
    shapes = shapes_of(public("Llama-3.1-8B"))
    assert shapes is not None
    base = Placed(shapes, "bfloat16", nf4=False, cuda=True)

    def total(r: int = 16, length: int = 1024, nf4: bool = False, **settings: Any) -> int:
        where = Placed(shapes, "bfloat16", nf4, cuda=True)
        return training_memory("dpo", where, Lora(r=r), Dpo(batch_size=16, **settings), length, 2).total

    usual = total()
    assert total(micro_batch_size=1) < usual / 4
    assert total(length=512) < usual and total(r=8) < usual and total(gradient_checkpointing=True) < usual / 4
    assert usual - total(nf4=True) > 0.7 * base.weights
    assert base.weights == 2 * shapes.parameters
    assert Placed(shapes, "bfloat16", nf4=True, cuda=True).weights / GIB == pytest.approx(5.31, abs=0.01)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_prj",), r'q_prj is no linear layer .* Did you mean "q_proj"'),
        (("embed_tokens",), "embed_tokens is no linear layer"),
        (("q_proj", "norm"), "norm is no linear layer"),
        (("lm_head",), "lm_head is no linear layer"),
        (".*expert.*", "is the name of no linear layer"),
    ],
)
def test_what_takes_no_adapter_is_said(targets: Any, said: str):
    shapes = shapes_of(public("SmolLM2-135M"))
    assert shapes is not None
    with pytest.raises(UserError, match=said):
        adapted(shapes, Lora(target_modules=targets))


def test_targets_by_list_and_by_pattern():
    shapes = shapes_of(public("SmolLM2-135M"))
    assert shapes is not None
    assert [linear.name for linear in adapted(shapes, Lora(target_modules=("q_proj", "down_proj")))[0]] == [
        "self_attn.q_proj",
        "mlp.down_proj",
    ]
    first_two = adapted(shapes, Lora(target_modules=r".*\.layers\.[01]\.mlp\..*"))
    assert [len(layer) for layer in first_two] == [3, 3] + [0] * 28
