"""How much memory learning takes where roles share a base as adapters: the reward model and PPO, which train without autocast."""

from rlaif_dpo.models.memory import CONTEXT, Memory, Placed, adapter_parameters, layers
from rlaif_dpo.recipe.training import Lora, Ppo, Reward

LOGIT_CHUNK = 256
"""Tokens whose logits are there at once in train/roles.py."""


def reward_memory(stage: str, placed: Placed, lora: Lora, settings: Reward, length: int) -> Memory:
    """A step of the reward model: two answers a row in one pass, of which only hidden states at their ends are read.

    Args:
        stage: Its name.
        placed: The base.
        lora: The adapter that is trained.
        settings: Of the stage.
        length: Tokens of the longest row: prompt and answer.
    """
    return _learning(stage, placed, lora, 2 * settings.rows_at_once, length, 0, settings.gradient_checkpointing)


def ppo_memory(stage: str, placed: Placed, lora: Lora, settings: Ppo, length: int) -> Memory:
    """A micro-batch of PPO's learning, at the policy's loss: the value's, which comes after it, has no logits.

    Args:
        stage: Its name.
        placed: The base.
        lora: Every role's adapter: policy, reference, value and reward. Policy and value are trained.
        settings: Of the stage.
        length: Tokens of the longest prompt with the longest answer to it.
    """
    rows = settings.micro_batch_size or settings.minibatch_size
    answered = rows * min(settings.max_new_tokens, length)
    found = _learning(stage, placed, lora, rows, length, answered, settings.gradient_checkpointing)
    trained = adapter_parameters(placed.shapes, lora)
    return found.and_also(adapters=3 * 4 * trained, optimiser=(4 + 8) * trained)


def _learning(stage: str, placed: Placed, lora: Lora, rows: int, length: int, answered: int, checkpointing: bool) -> Memory:
    """A forward and a backward pass of one trained adapter, with the logits of `answered` tokens, a chunk at a time."""
    shapes, tokens, trained = placed.shapes, rows * length, adapter_parameters(placed.shapes, lora)
    still = lora.model_copy(update={"dropout": 0.0})  # dropout is off
    kept, passing = layers(placed, still, rows, length, checkpointing, autocast=False)
    # The last norm keeps its input in float32. What it gives is read from until the micro-batch is done.
    ending, hidden = tokens * shapes.hidden * 4, tokens * shapes.hidden * placed.size
    # The hidden states that predict the answers, and of a chunk's float32 logits: themselves, by temperature, log-probabilities.
    logits = answered * shapes.hidden * placed.size + min(answered, LOGIT_CHUNK) * shapes.vocabulary * 3 * 4
    return Memory(
        stage,
        {
            "weights": placed.weights,
            "adapters": 4 * trained,
            "optimiser": (4 + 8) * trained,
            "activations": kept + ending + hidden,
            "logits": logits,
            "cache": 0,
            "other": CONTEXT["cuda" if placed.cuda else "cpu"] + max(0, passing - ending - logits),
        },
    )
