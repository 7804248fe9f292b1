"""Text and option scores out of a model."""
