"""The census: what is kept, what is dropped and why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif_dpo.messages import assistant, user
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.train.data import NO_END, NOT_A_PREFIX, REFUSED, TOO_LONG, take_census
from tests.tiny import tiny_model_folder
from tests.train.conftest import preference_rows, sft_rows

Load = Callable[..., LoadedModel]


def with_template(template: str, tmp_path: Path) -> LoadedModel:
    return load_model(Model(path=str(tiny_model_folder(tmp_path, template=template))))


def test_an_example_is_the_prompt_and_its_answers_to_the_end(load: Load) -> None:
    loaded = load()
    (example,) = take_census(preference_rows(1), ("chosen", "rejected"), loaded, 512).examples
    texts = [str(loaded.tokenizer.decode(ids)) for ids in (example.prompt, *example.completions)]
    assert texts[0].endswith("hello 0<|im_end|>\n<|im_start|>assistant\n")
    assert texts[1:] == ["yes, it is<|im_end|>\n", "no, it is not<|im_end|>\n"]
    assert example.length == len(example.prompt) + max(map(len, example.completions))


def test_the_census_keeps_the_order_of_ids_and_says_the_limit(load: Load) -> None:
    loaded = load()
    census = take_census(sft_rows(12)[::-1], ("completion",), loaded, 10**6)
    assert [example.row["id"] for example in census.examples] == [f"q{i:02}" for i in range(12)]
    assert census.max_length == loaded.context_length
    assert census.lengths == sorted(example.length for example in census.examples)


def test_a_row_of_just_the_limit_is_kept(load: Load) -> None:
    loaded = load()
    length = take_census(sft_rows(1), ("completion",), loaded, 512).lengths[0]
    assert take_census(sft_rows(1), ("completion",), loaded, length).funnel == {"rows": 1, "kept": 1}
    assert take_census(sft_rows(1), ("completion",), loaded, length - 1).dropped == {TOO_LONG: ["q00"]}


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", NO_END),
        (
            "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<think></think>{% endif %}",
            NOT_A_PREFIX,
        ),
    ],
)
def test_templates_that_train_the_wrong_thing_drop_their_rows(template: str, reason: str, tmp_path: Path) -> None:
    census = take_census(sft_rows(3), ("completion",), with_template(template, tmp_path), 512)
    assert census.dropped == {reason: ["q00", "q01", "q02"]}


def test_a_conversation_the_template_refuses_is_counted(tmp_path: Path) -> None:
    loaded = with_template(
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}",
        tmp_path,
    )
    rows = [*sft_rows(1), {"id": "x", "prompt": [assistant("hi"), user("hello")], "completion": [assistant("yes")]}]
    assert take_census(rows, ("completion",), loaded, 512).dropped == {REFUSED: ["x"]}
