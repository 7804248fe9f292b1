"""Load models, adapters and chat templates."""
