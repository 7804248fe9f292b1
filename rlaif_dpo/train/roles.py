"""Several models out of one base: an adapter, and for scalars a head on its hidden states, makes a role.

Policy, reference, value function and reward model differ in an adapter of some million weights; the base under them is the same
object. `switch` and `models.adapters.use_adapter` choose who speaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Linear, Parameter
from torch.utils.checkpoint import checkpoint

from rlaif_dpo.engines.decode import left_pad, positions_of
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.models.memory_roles import LOGIT_CHUNK

T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """Prompts and their answers as tensors: prompts are padded on the left, answers on the right.

    Attributes:
        ids: (rows, P + T) token ids.
        seen: (rows, P + T) attention mask.
        tokens: (rows, T) the answers' ids.
        mask: (rows, T) true where an answer has a token.
    """

    ids: Tensor
    seen: Tensor
    tokens: Tensor
    mask: Tensor

    def states(self, hidden: Tensor) -> Tensor:
        """The hidden states (rows, T, d) of s_t, of which pi(y_t|s_t) and V(s_t) are read, out of (rows, P + T, d)."""
        width = self.tokens.shape[1]
        return hidden[:, -width - 1 : -1]


def lay_out(prompts: Sequence[list[int]], answers: Sequence[list[int]], loaded: LoadedModel) -> Answers:
    """Pad prompts and answers (at least one token each) to one batch."""
    pad = cast(int, loaded.tokenizer.pad_token_id)
    ids, seen = left_pad(prompts, pad, loaded.device)
    flipped, flipped_mask = left_pad([answer[::-1] for answer in answers], pad, loaded.device)
    tokens, mask = flipped.flip(1), flipped_mask.flip(1)
    return Answers(torch.cat([ids, tokens], dim=1), torch.cat([seen, mask], dim=1), tokens, mask.bool())


def switch(loaded: LoadedModel, adapter: str) -> None:
    """Compute with `adapter` from now on, its weights trainable and those of every other adapter not."""
    loaded.model.set_adapter(adapter)


def adapter_parameters(loaded: LoadedModel, adapter: str) -> list[Parameter]:
    """The weights of an adapter, in the model's order, in float32, in which small updates do not vanish."""
    found = [p for name, p in loaded.model.named_parameters() if f".{adapter}." in f"{name}."]
    for parameter in found:
        parameter.data = parameter.data.float()
    return found


def hidden_states(loaded: LoadedModel, ids: Tensor, seen: Tensor) -> Tensor:
    """The last layer's hidden states, (rows, width, d), under the active adapter. The language-model head is not run."""
    backbone = _causal(loaded).base_model
    output = backbone(input_ids=ids, attention_mask=seen, position_ids=positions_of(seen), use_cache=False)
    return cast(Tensor, output.last_hidden_state)


def log_probs(loaded: LoadedModel, answers: Answers, hidden: Tensor, temperature: float) -> Tensor:
    """log pi(y_t|s_t) of every answer token, (rows, T), 0 outside the mask; `hidden` is (rows, P + T, d) under the policy.

    The vocabulary is the widest tensor of all, so it is gone through in chunks of tokens, recomputed in the backward pass.
    """
    states, tokens = answers.states(hidden)[answers.mask], answers.tokens[answers.mask]
    parts = []
    for state, token in zip(states.split(LOGIT_CHUNK), tokens.split(LOGIT_CHUNK), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chosen, loaded, state, token, temperature, use_reentrant=False))
        else:
            parts.append(_chosen(loaded, state, token, temperature))
    return _spread(torch.cat(parts), answers.mask)


def entropies(loaded: LoadedModel, answers: Answers, hidden: Tensor, temperature: float) -> Tensor:
    """H(pi(.|s_t)) in nats at every answer token, (rows, T), 0 outside the mask."""
    parts = []
    for state in answers.states(hidden)[answers.mask].split(LOGIT_CHUNK):
        logp = _log_softmax(loaded, state, temperature)
        parts.append(-(logp.exp() * logp).sum(dim=-1))
    return _spread(torch.cat(parts), answers.mask)


def new_head(loaded: LoadedModel, seed: int, bias: bool = False) -> Linear:
    """A scalar head on hidden states, float32, weights drawn with standard deviation 1 / sqrt(d + 1).

    Source: Huang et al. 2024, arXiv 2403.17031.
    """
    width = int(_causal(loaded).config.get_text_config().hidden_size)
    head = Linear(width, 1, bias=bias)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / (width + 1) ** 0.5)
        if bias:
            head.bias.zero_()
    return head.to(loaded.device)


def read_scalar(head: Linear, hidden: Tensor) -> Tensor:
    """The head's value at each of (..., d) hidden states, (...,), in float32 whatever the base computes in."""
    return cast(Tensor, head(hidden.float()).squeeze(-1))


def logit_error(loaded: LoadedModel, answers: Answers, temperature: float) -> float:
    """How far `log_probs` is from what the model's own forward pass says, on the first answer, in nats.

    Models that scale their logits in ways unknown here would be trained on a distribution that is not theirs.
    """
    ids, seen = answers.ids[:1], answers.seen[:1]
    one = Answers(ids, seen, answers.tokens[:1], answers.mask[:1])
    ours = log_probs(loaded, one, hidden_states(loaded, ids, seen), temperature)
    output = loaded.model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=positions_of(seen),
        use_cache=False,
        logits_to_keep=answers.tokens.shape[1] + 1,
    )
    logp = torch.log_softmax(output.logits[:, :-1].float() / temperature, dim=-1)
    theirs = logp.gather(-1, one.tokens.unsqueeze(-1)).squeeze(-1)
    return float(torch.where(one.mask, (ours - theirs).abs(), 0.0).max())


def chunked(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive runs of `size` items; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _causal(loaded: LoadedModel) -> Any:
    return loaded.model.get_base_model() if isinstance(loaded.model, PeftModel) else loaded.model


def _log_softmax(loaded: LoadedModel, states: Tensor, temperature: float) -> Tensor:
    """log pi(.|s), (n, vocabulary) in float32, of (n, d) hidden states."""
    causal = _causal(loaded)
    logits = causal.get_output_embeddings()(states).float()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits / temperature, dim=-1)


def _chosen(loaded: LoadedModel, states: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return _log_softmax(loaded, states, temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """(n,) values into the true places of (rows, T), 0 elsewhere."""
    out = values.new_zeros(mask.shape)
    out[mask] = values
    return out
