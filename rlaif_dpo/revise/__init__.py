"""Phase 1: draft, critique, revise; the revisions that are fit become SFT rows."""
