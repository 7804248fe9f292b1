"""A tiny model and rows over it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlaif_dpo.files import Row, write_jsonl
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Lora, Reward, Sft
from rlaif_dpo.train.reward import run_reward
from rlaif_dpo.train.sft import run_sft
from tests.tiny import tiny_model_folder

LORA = Lora(r=4, alpha=8)
QUESTIONS = ("hello", "is it far", "can I go", "who is there", "what now", "is it cold", "how old", "why not")


def sft_rows(count: int) -> list[Row]:
    return [
        {
            "id": f"q{i:02}",
            "prompt": [user(f"{QUESTIONS[i % 8]} {i}")],
            "completion": [assistant(f"yes, {i} it is" + " A" * (i % 5))],
        }
        for i in range(count)
    ]


def preference_rows(count: int, p: float | None = None) -> list[Row]:
    return [
        {
            "id": f"q{i:02}",
            "prompt": [user(f"{QUESTIONS[i % 8]} {i}")],
            "chosen": [assistant("yes, it is" + " A" * (i % 4))],
            "rejected": [assistant("no, it is not" + " B" * (i % 3))],
            "p": 0.6 + 0.04 * (i % 10) if p is None else p,
        }
        for i in range(count)
    ]


def written(path: Path, rows: list[Row]) -> Path:
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="session", autouse=True)
def no_cards() -> Iterator[None]:
    """peft writes a page about the adapter into every checkpoint; nobody reads it, and to compile its template takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peft.PeftModel.create_or_update_model_card", lambda self, output_dir: None)
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"), weight_scale=0.1)


@pytest.fixture(scope="session")
def load(model_folder: Path) -> Callable[..., LoadedModel]:
    """Loads the tiny model afresh; keyword arguments go to the recipe's `model` section."""
    return lambda **settings: load_model(Model(path=str(model_folder), **settings))


@pytest.fixture(scope="session")
def sft_adapter(load: Callable[..., LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that SFT has moved well away from the base."""
    folder = tmp_path_factory.mktemp("sft")
    settings = Sft(batch_size=4, lr=5e-3, epochs=2, warmup=0.0)
    run_sft(written(folder / "rows.jsonl", sft_rows(16)), load(), LORA, settings, folder, 0, Silent())
    return folder / "adapter"


@pytest.fixture(scope="session")
def reward_adapter(load: Callable[..., LoadedModel], sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    made = Reward(batch_size=8, lr=1e-2, epochs=2)
    run_reward(written(folder / "p.jsonl", preference_rows(16)), load(), sft_adapter, made, folder, 0, Silent())
    return folder / "adapter"
