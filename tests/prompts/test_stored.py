"""Prompts that stay on disk are the same sequence as those in memory."""

from dataclasses import asdict
from pathlib import Path

import pytest

from rlaif_dpo.files import write_jsonl
from rlaif_dpo.messages import user
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.stored import StoredPrompts


def test_a_phase_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    prompts = [PromptRow(f"p{n}", (user(f"Is {n} enough, Zoë?"),), ("plain",), {"answer": n}) for n in range(7)]
    others = [PromptRow(f"q{n}", (user("And this?"),)) for n in range(3)]
    rows = [{"phase": "pairs"} | asdict(prompt) for prompt in prompts]
    rows[2:2] = [{"phase": "evaluate"} | asdict(prompt) for prompt in others]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    stored = StoredPrompts(tmp_path / "prompts.jsonl", "pairs")
    assert len(stored) == 7 and list(stored) == prompts and stored[3] == prompts[3] and stored[-1] == prompts[-1]
    assert stored[2:5] == prompts[2:5] and stored[5:99] == prompts[5:] and stored[9:] == [] and prompts[4] in stored
    assert list(StoredPrompts(tmp_path / "prompts.jsonl", "evaluate")) == others
    with pytest.raises(IndexError):
        stored[7]
