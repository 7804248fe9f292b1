"""Phase 2: candidates from the policy, pairs of them, the judge's probability, preference rows."""
