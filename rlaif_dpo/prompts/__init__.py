"""Prompt sets: loading, cleaning, and splitting without leakage."""

from rlaif_dpo.prompts.clean import strip_control_tokens
from rlaif_dpo.prompts.load import PromptLoad, load_prompts
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.sources import read_rows
from rlaif_dpo.prompts.split import shortfall, split_prompts

__all__ = ["PromptLoad", "PromptRow", "load_prompts", "read_rows", "shortfall", "split_prompts", "strip_control_tokens"]
