"""YAML 1.2 scalars with the line of every key."""

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe.reader import read_scalar, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6),
        ("1e5", 1e5),
        ("1E+5", 1e5),
        (".5", 0.5),
        ("-.inf", -float("inf")),
        ("7", 7),
        ("-3", -3),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("2:30", "2:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("<<", "<<"),
        ("", None),
        ("null", None),
        ("~", None),
        ("a: b # c", "a: b # c"),
        ("@x", "@x"),
        ("'5e-6'", "5e-6"),
        ("[no, 1e-3, 'x']", ("no", 1e-3, "x")),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    document = read_yaml("# comment\na:\n  b: 1\n\n  c:\n    - x\n    - y\n", "f.yaml")
    assert document.data == {"a": {"b": 1, "c": ("x", "y")}}
    assert document.lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1): 7}


def test_aliases_repeat_a_value_but_never_themselves() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}
    document = read_yaml("a: &x [*x]\n", "f")
    assert document.problems == [(("a", 0), "an alias inside its own anchor")]


def test_what_yaml_allows_and_we_do_not() -> None:
    document = read_yaml("a: 1\na: 2\nb: !!python/name:os.system x\n[c]: 3\n!!int d: !!int x\n", "f")
    assert document.data == {"a": 1, "b": None, "d": None}
    assert [path for path, _ in document.problems] == [("a",), ("b",), (), ("d",)]
    assert document.problems[0][1] == "given again on line 2; keep one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", "f.yaml:3: not valid YAML"),
        ("a:\n\tb: 1\n", "f.yaml:2: not valid YAML: .*indent with spaces"),
        ("a: b: c\n", "f.yaml:1: not valid YAML: mapping values"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML"),
        ("a: \x07\n", "f.yaml: not valid YAML: unacceptable character"),
    ],
)
def test_broken_yaml_says_where(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(text, "f.yaml")
    assert "\n" not in str(caught.value)
