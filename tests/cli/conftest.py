"""The command line in this process: its exit code and what it printed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlaif_dpo.cli import main
from rlaif_dpo.files import write_json, write_text


@dataclass
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*args: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(args)
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else int(code is not None), printed.out, printed.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose files all exist; its model has no real weights."""
    model = tmp_path / "model"
    write_json(model / "config.json", {})
    write_json(model / "tokenizer.json", {})
    write_text(model / "model.safetensors", "weights")
    write_text(tmp_path / "prompts.jsonl", "".join(f'{{"prompt": "Question {n}, please?"}}\n' for n in range(30)))
    path = tmp_path / "mine.yaml"
    write_text(
        path,
        f"name: mine\nconstitution: telehealth\nmodel:\n  path: {model}\n"
        "prompts:\n  source: prompts.jsonl\n  revise: 10\n  pairs: 10\n  evaluate: 10\n",
    )
    return path
