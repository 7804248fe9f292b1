"""Rules: propositions, checks, and rulebooks that make a reward of them."""
