"""The constitution: reading, checking and locking the document that people write."""

from rlaif_dpo.constitution.lint import Finding, lint
from rlaif_dpo.constitution.load import (
    load_constitution,
    only,
    read_critic_revision_json,
    shipped_constitutions,
    without,
)
from rlaif_dpo.constitution.lock import constitution_hash, dump_lock
from rlaif_dpo.constitution.schema import Constitution, Principle, derive

__all__ = [
    "Constitution",
    "Finding",
    "Principle",
    "constitution_hash",
    "derive",
    "dump_lock",
    "lint",
    "load_constitution",
    "only",
    "read_critic_revision_json",
    "shipped_constitutions",
    "without",
]
