"""How much memory a stage takes, by part, from a model's shapes: arithmetic only, nothing is loaded.

Each number is what our code keeps at the worst instant of a stage. docs/memory.md says how it was checked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlaif_dpo.models.shapes import Shapes, adapted
from rlaif_dpo.recipe.training import Lora, Optimisation

Dtype = Literal["float32", "bfloat16", "float16"]
GIB = 2**30
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight: 4 bits, an 8-bit scale for 64 weights, a float32 scale for 256 scales (Dettmers et al. 2023, 2305.14314)."""
CONTEXT = {"cuda": int(0.75 * GIB), "cpu": int(0.5 * GIB)}
"""Before any tensor: on a CPU Python with its libraries, as measured; on a GPU the context and its kernels, assumed."""
TILE = (4096, 32768)
"""Tokens x vocabulary rows of the tile of logits in a training step: trl's fused output layer, as wide for a small vocabulary."""


@dataclass(frozen=True)
class Placed:
    """A model as it lies in memory.

    Attributes:
        shapes: Of the model.
        dtype: It computes in.
        nf4: Its linear layers are stored in 4 bits.
        cuda: On a GPU, else on the CPU.
    """

    shapes: Shapes
    dtype: Dtype
    nf4: bool
    cuda: bool

    @property
    def size(self) -> int:
        """Bytes of a number in the compute type."""
        return 4 if self.dtype == "float32" else 2

    @property
    def autocast(self) -> bool:
        """Whether a training step runs under autocast: float32 adapters on a 16-bit base (on a CPU in bfloat16 only)."""
        return self.dtype == "bfloat16" or (self.dtype == "float16" and self.cuda)

    @property
    def weights(self) -> int:
        """Bytes of the base: linear layers but the output layer in 4 bits, or everything in the compute type."""
        quantised = self.shapes.linear_weights + self.shapes.tower if self.nf4 else 0
        return int(quantised * NF4) + (self.shapes.parameters - quantised) * self.size


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the worst instant of a stage."""

    stage: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def and_also(self, **parts: int) -> "Memory":
        """The same with more in some parts."""
        return Memory(self.stage, {**self.parts, **{name: self.parts.get(name, 0) + size for name, size in parts.items()}})


def adapter_parameters(shapes: Shapes, lora: Lora) -> int:
    """A is rank x inputs, B is outputs x rank, for every adapted layer."""
    return sum(lora.r * (linear.inputs + linear.outputs) for layer in adapted(shapes, lora) for linear in layer)


def training_memory(
    stage: str, placed: Placed, lora: Lora, settings: Optimisation, length: int, answers: int = 1, prompt: int = 0
) -> Memory:
    """A training step of trl's trainers: SFT, DPO, GRPO and RLOO.

    Args:
        stage: Its name.
        placed: The base.
        lora: The adapter that is trained.
        settings: Of the stage.
        length: Tokens of the longest row: prompt and answer.
        answers: Sequences of a row: 1 for SFT, 2 for DPO, whose reference is a frozen copy of the adapter, asked once before the
            first step and never within one.
        prompt: Tokens of the longest row's prompt. Only answers reach the output layer on a GPU.
    """
    shapes, rows = placed.shapes, settings.rows_at_once * answers
    tokens, trained = rows * length, adapter_parameters(shapes, lora)
    kept, passing = layers(placed, lora, rows, length, settings.gradient_checkpointing, placed.autocast)
    # The last norm keeps its input in float32; the output layer keeps a copy of its own input.
    ending = tokens * shapes.hidden * (4 + placed.size)
    casts = 2 * trained if placed.autocast else 0  # 16-bit copies of the adapter, kept until the backward pass
    head = _output_layer(placed, tokens, rows * (length - prompt) if placed.cuda else tokens)
    return Memory(
        stage,
        {
            "weights": placed.weights,
            "adapters": 4 * trained * answers,  # float32, and for DPO the reference's copy
            "optimiser": (4 + 8) * trained,  # a gradient and Adam's two moments, float32
            "activations": kept + ending + casts,
            "logits": head,
            "cache": 0,
            # While a layer's backward pass runs, the ending is freed; what is more than the output layer took counts.
            "other": CONTEXT["cuda" if placed.cuda else "cpu"] + max(0, passing - head - ending),
        },
    )


def layers(placed: Placed, lora: Lora, rows: int, length: int, checkpointing: bool, autocast: bool) -> tuple[int, int]:
    """Bytes that all decoder layers keep until the backward pass, and those that it needs beside them while it is at a layer.

    Checkpointing keeps each layer's input alone, and one layer at a time as a whole.
    """
    layer, tokens = _kept_by_layer(placed, lora, rows, length, autocast), rows * length
    backward = max(0, _backward_of_layer(placed, tokens, rows, length, autocast))
    if checkpointing:
        return placed.shapes.layers * tokens * placed.shapes.hidden * placed.size, layer + backward
    return placed.shapes.layers * layer, backward


def _kept_by_layer(placed: Placed, lora: Lora, rows: int, length: int, autocast: bool) -> int:
    """Bytes that autograd keeps of a decoder layer until its backward pass."""
    s, size, family = placed.shapes, placed.size, placed.shapes.family
    targets = adapted(s, lora)[-1]
    grouped = s.key < s.query
    masked = rows > 1  # rows of several lengths: padding, so a mask, and with it no grouped kernel: keys are repeated
    kept = family.norms * 4 * s.hidden  # each norm keeps its input in float32
    if family.qk_norm is not None:
        kept += 4 * (s.query + s.key)  # and so do these
    key = s.query if grouped and (masked or family.eager) else s.key
    kept += size * (s.query + 2 * key)  # what the attention reads, after rotation
    if family.fused and key == s.key:
        kept += size * (s.query + s.key)  # values are a view of the fused projection, which lives as a whole
    if not family.eager:
        kept += size * s.query + 4 * s.heads  # what it gives, and the logarithm of each softmax's sum
    kept += size * 3 * s.intermediate  # gate, its activation, up
    # An adapter's A keeps its input. On a 16-bit base each takes a float32 detour and so a copy of its own: in 16 bits under
    # autocast, but that 4-bit layers on a GPU then hand it on as it is. Otherwise layers that read the same tensor share it.
    copies = lora.dropout > 0 or (size == 2 and not (autocast and placed.nf4 and placed.cuda))
    number = size if autocast else 4
    # What attention gives is kept already, unless it had to be laid out anew.
    same = "attention output" if not family.eager and not family.fused else None
    shared = {linear.reads: linear.inputs for linear in targets if linear.reads != same}
    kept += number * (sum(linear.inputs for linear in targets) if copies else sum(shared.values()))
    kept += number * lora.r * len(targets)  # an adapter's B keeps what A gives
    if lora.dropout > 0:
        kept += (1 if placed.cuda else 4) * sum(linear.inputs for linear in targets)  # dropout keeps its mask
    total = rows * length * kept
    if family.eager:
        # Scores: tanh and weights in the compute type, the softmax in float32, which is the weights' own tensor in float32.
        scores = (size if s.softcap else 0) + 4 + (0 if size == 4 else size)
        return total + rows * s.heads * length**2 * scores
    return total + (rows * length**2 * size if masked else 0)  # the boolean mask becomes one to add, anew in each layer


def _backward_of_layer(placed: Placed, tokens: int, rows: int, length: int, autocast: bool) -> int:
    """Bytes that exist only while the gradient passes through a layer: at the widest, the MLP's product."""
    s = placed.shapes
    mlp = tokens * s.intermediate * (10 if autocast else 8)  # the product's gradient by both ways, their sum, a cast
    scores = 2 * rows * s.heads * length**2 * 4 if s.family.eager else 0  # softmax backward: gradient in and out, float32
    return max(mlp, scores) + (s.largest_linear * placed.size if placed.nf4 else 0)


def _output_layer(placed: Placed, tokens: int, scored: int) -> int:
    """Bytes of the fused output layer's backward pass: a tile of logits at a time, the gradient of its input in float32."""
    s = placed.shapes
    at_once, used = min(scored, TILE[0]), min(s.vocabulary, TILE[1])
    # A GPU kernel works within the tile; on a CPU torch makes float32 tensors beside it (scaled twice, p, gradient, a product).
    beside = 0 if placed.cuda else 5 * 4 * at_once * used
    chunk = 0 if placed.cuda or placed.size == 4 else 4 * used * s.hidden
    return at_once * TILE[1] * placed.size + beside + chunk + scored * s.hidden * 4 + tokens * s.hidden * placed.size


def generation_memory(stage: str, placed: Placed, budget: int, prompt: int, new: int, adapters: int = 0) -> Memory:
    """Sampling answers in batches of rows x (prompt + new) <= `budget` tokens.

    Args:
        stage: Its name.
        placed: The model that writes.
        budget: `max_batch_tokens`.
        prompt: Tokens of the prompts in the largest batch.
        new: The most tokens of an answer.
        adapters: Parameters of all adapters in memory; 0: the bare base writes.
    """
    rows = max(1, budget // (prompt + new))
    cache = rows * _cache_of_row(placed, prompt, prompt + new)
    activations = _prompt_pass(placed, rows, prompt, prompt, adapters > 0)
    return _inference(stage, placed, activations, _one_position(placed, rows), cache, adapters)


def scoring_memory(stage: str, placed: Placed, budget: int, prompt: int) -> Memory:
    """A judge's forward passes over prompts of `prompt` tokens, in batches of at most `budget` tokens.

    Prompts that share nothing take one pass and no cache; those that share at least half (the rule of the engine's groups) take a
    pass over what is left, on a cache of what is shared.
    """
    rows, rest = max(1, budget // prompt), math.ceil(prompt / 2)
    logits, cache = _one_position(placed, rows), rows * _cache_of_row(placed, prompt, prompt)
    apart = _inference(stage, placed, _prompt_pass(placed, rows, prompt, prompt, adapter=False), logits, 0)
    alike = _inference(stage, placed, _prompt_pass(placed, rows, rest, prompt, adapter=False), logits, cache)
    return max(apart, alike, key=lambda memory: memory.total)


def reward_scoring_memory(stage: str, placed: Placed, budget: int, length: int, adapters: int) -> Memory:
    """A reward model's passes over prompts and answers of `length` tokens in all, in batches of at most `budget` tokens."""
    rows = max(1, budget // length)
    return _inference(stage, placed, _prompt_pass(placed, rows, length, length, adapter=True), 0, 0, adapters)


def _inference(stage: str, placed: Placed, activations: int, logits: int, cache: int, adapters: int = 0) -> Memory:
    parts = {
        "weights": placed.weights,
        "adapters": 4 * adapters,
        "optimiser": 0,
        "activations": activations,
        "logits": logits,
        "cache": cache,
        "other": CONTEXT["cuda" if placed.cuda else "cpu"],
    }
    return Memory(stage, parts)


def _one_position(placed: Placed, rows: int) -> int:
    """Bytes of the logits of one position: sampling and scoring work in float64, one tensor goes in and one comes out."""
    return rows * placed.shapes.vocabulary * (placed.size + 2 * 8)


def _cache_of_row(placed: Placed, prompt: int, length: int) -> int:
    """Keys and values of all layers. A window's layer holds a whole prompt until the first step, then its window."""
    s = placed.shapes
    held = max(s.layers * prompt, sum(min(length, window or length) for window in s.windows))
    return 2 * s.key * placed.size * held


def _prompt_pass(placed: Placed, rows: int, new: int, seen: int, adapter: bool) -> int:
    """Bytes of a forward pass over `new` tokens of each row that attend to `seen`, at its widest: the MLP or the attention."""
    s, size, tokens = placed.shapes, placed.size, rows * new
    # What the model and the layer hold on to: the embeddings, the layer's input, its norm; the MLP has a second sum as well.
    # Bare: activation, up, product. With an adapter, while up is made: activation, up, and B A x in float32, scaled, added.
    mlp = 4 * size * s.hidden + s.intermediate * (2 * size + 8 if adapter else 3 * size)
    mlp += 4 * s.hidden if adapter and size == 2 else 0
    attention = 3 * size * s.hidden + size * (4 * s.query + s.key)
    masks = len(set(s.windows))  # one for layers with a window, one for those without
    if s.family.eager:  # scores before and after the softmax in float32, and as they were in 16 bits; the layer holds on to them
        attention += s.heads * seen * (8 if size == 4 else 10)
        mlp += s.heads * seen * size
        kept = masks * size
    else:
        kept = masks + size  # boolean, and in a layer as one to add
    return tokens * (max(mlp, attention) + seen * kept) + (s.largest_linear * size if placed.nf4 else 0)
