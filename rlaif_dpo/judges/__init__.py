"""Who prefers what, as a probability."""
