"""Randomness derived from names, never from call order.

A resumed run, a run with another batch size and an uninterrupted run must draw the same principles, pairs and texts,
so every random choice takes its seed from what it is for: (run seed, stage, row id, ...).
"""

import hashlib
import random


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from `parts`; the same parts give the same seed on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_rng(*parts: object) -> random.Random:
    """A private generator seeded by `derive_seed(*parts)`."""
    return random.Random(derive_seed(*parts))


def content_hash(text: str, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
