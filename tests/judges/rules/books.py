"""Rulebooks for the tests."""

from rlaif_dpo.judges.rules.load import load_rulebook

TWO_CLASSES = """
name: polite
propositions:
  - {id: thanks, question: Does the reply say thanks?, check: {kind: regex, pattern: thank}}
  - {id: short, check: {kind: length, max: 3}}
responses:
  - id: any
    tags: [chat]
    classes:
      - {id: good, all: [thanks]}
      - {id: bad}
    weights: {good: 2, short: 0.5}
"""


def write_book(folder, text=TWO_CLASSES, name="book.yaml"):
    """The path of a rulebook with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def make_book(folder, text=TWO_CLASSES):
    """The rulebook with this text."""
    return load_rulebook(write_book(folder, text))
