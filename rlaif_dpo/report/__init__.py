"""What a run shows for itself: the evidence as JSON, one HTML page, and the model card."""
