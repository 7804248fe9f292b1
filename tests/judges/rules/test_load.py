"""Reading rulebooks and fitted weights."""

import json
import re
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.judges.rules.load import load_rulebook, save_weights, shipped_rulebooks, with_weights
from tests.judges.rules.books import TWO_CLASSES, make_book, write_book


def test_a_rulebook_is_read_whole(tmp_path):
    book = make_book(tmp_path)
    assert (book.name, book.options, len(book.hash)) == ("polite", ("yes", "no"), 12)
    thanks, short = book.propositions
    assert (thanks.id, thanks.question, thanks.check.pattern, thanks.about) == (
        "thanks",
        "Does the reply say thanks?",
        "thank",
        "reply",
    )
    assert (short.question, short.check.max, short.check.unit) == (None, 3, "words")
    assert book.responses[0].classes[0].all == ("thanks",) and book.responses[0].weights == {"good": 2.0, "short": 0.5}


def test_the_hash_is_that_of_the_content(tmp_path):
    book = make_book(tmp_path)
    assert book.hash == make_book(tmp_path, "# a comment\n" + TWO_CLASSES).hash
    assert book.hash != make_book(tmp_path, TWO_CLASSES.replace("max: 3", "max: 4")).hash


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("max: 3", "maximum: 3", 5, 'propositions.1.check.maximum: unknown key. Did you mean "max"?'),
        ("max: 3", "max: three", 5, "propositions.1.check.max: input should be a valid integer, not 'three'"),
        ("max: 3", "min: 4, max: 3", 5, "propositions.1.check: `max` 3 is below `min` 4"),
        ("kind: length, ", "", 5, "propositions.1.check.kind: is missing"),
        ("pattern: thank", "pattern: '(thank'", 4, "propositions.0.check: `pattern` is not a regular expression"),
        (", check: {kind: length, max: 3}", "", 5, 'propositions.1: "short" needs a `question` or a `check`'),
        ("id: short", "id: thanks", 5, 'propositions.1.id: the id "thanks" is used twice; give each its own'),
        ("tags: [chat]", "", 7, 'responses.0: "any" needs `tags` or `when`: which prompts want it'),
        ("tags: [chat]", "when: thanks", 8, 'responses.0.when: "thanks" is about the reply; here it takes one about the prompt'),
        ("all: [thanks]", "all: [thank]", 10, 'responses.0.classes.0.all.0: there is no proposition "thank", nor a rule above.'),
        ("all: [thanks]", "all: [thanks], any: [short]", 10, "responses.0.classes.0: needs one of `all` and `any`, not both"),
        (", all: [thanks]", "", 10, "responses.0.classes.0: needs one of `all` and `any`"),
        (
            "{id: bad}",
            "{id: bad, all: [short]}",
            11,
            "responses.0.classes.1: the last class takes the rest; leave its condition out",
        ),
        ("{id: bad}", "{id: good}", 11, 'responses.0.classes.1.id: the id "good" is used twice; give each its own'),
        ("short: 0.5", "shrot: 0.5", 12, 'Did you mean "short"?'),
        ("short: 0.5", "short: much", 12, "responses.0.weights.short: input should be 'fit', not 'much'"),
        ("all: [thanks]", "all: [not  thanks]", 10, "expected a name of letters, digits, `.`, `_` and `-`, not 'not  thanks'"),
        ("name: polite", "title: polite", 1, "name: is missing"),
        (
            "kind: regex",
            "kind: regexp",
            4,
            "propositions.0.check.kind: expected 'length', 'regex', 'json', 'numeric', 'exact', 'code'",
        ),
        ("tags: [chat]", "tags: chat", 8, "responses.0.tags: expected a list, not 'chat'"),
        ("weights: {good: 2, short: 0.5}", "weights: {}", 12, "responses.0.weights: needs 1 or more"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, old, new, line, message):
    assert old in TWO_CLASSES
    path = write_book(tmp_path, TWO_CLASSES.strip("\n").replace(old, new) + "\n")
    with pytest.raises(UserError) as caught:
        load_rulebook(path)
    lines = str(caught.value).splitlines()
    assert any(text.startswith(f"{path}:{line - 1 if line > 1 else 1}: ") and message in text for text in lines), lines


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path):
    path = write_book(
        tmp_path, TWO_CLASSES.replace("max: 3", "maxi: 3").replace("short: 0.5", "short: x").replace("name:", "nam:")
    )
    with pytest.raises(UserError) as caught:
        load_rulebook(path)
    numbers = [int(line.split(":")[1]) for line in str(caught.value).splitlines()]
    assert len(numbers) == 4 and numbers == sorted(numbers)


def test_prompt_and_reply_do_not_mix(tmp_path):
    text = TWO_CLASSES.replace("responses:", "  - {id: asks, about: prompt, check: {kind: regex, pattern: x}}\nresponses:")
    with pytest.raises(UserError, match='"asks" is about the prompt; here it takes one about the reply'):
        make_book(tmp_path, text.replace("all: [thanks]", "all: [asks]"))
    with pytest.raises(UserError, match="mixes propositions about the prompt with those about the reply"):
        make_book(tmp_path, text.replace("responses:", "rules:\n  - {id: both, all: [asks, thanks]}\nresponses:"))
    assert make_book(tmp_path, text.replace("tags: [chat]", "when: not asks")).responses[0].when == "not asks"


def test_a_rule_sees_only_the_rules_above_it(tmp_path):
    rules = "rules:\n  - {id: one, all: [two]}\n  - {id: two, all: [thanks]}\nresponses:"
    with pytest.raises(UserError, match='rules.0.all.0: there is no proposition "two"'):
        make_book(tmp_path, TWO_CLASSES.replace("responses:", rules))


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("{type: [string, integer]}", None),
        ("{type: strin}", "`schema` is not a JSON schema"),
        ("{pattern: '('}", "`schema` is not a JSON schema"),
        ("{$ref: '#/$defs/a', $defs: {a: {type: object}}}", None),
        ("{$ref: '#/$defs/b', $defs: {a: {type: object}}}", 'refers to "#/$defs/b", which is not in it'),
        ("{$ref: 'https://example.org/schema'}", 'refers to "https://example.org/schema", which is not in it'),
    ],
)
def test_a_json_schema_is_checked_when_it_is_read(tmp_path, schema, problem):
    text = TWO_CLASSES.replace("{kind: length, max: 3}", f"{{kind: json, schema: {schema}}}")
    if problem is None:
        assert make_book(tmp_path, text).propositions[1].check.kind == "json"
    else:
        with pytest.raises(UserError) as caught:
            make_book(tmp_path, text)
        assert problem in str(caught.value)


def test_what_is_not_there_says_what_is(tmp_path):
    with pytest.raises(UserError, match='There is no rulebook "refusal". Did you mean "refusals"?'):
        load_rulebook("refusal")
    with pytest.raises(UserError, match="There is no file"):
        load_rulebook(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=":1: not a rulebook"):
        make_book(tmp_path, "- a list\n")


@pytest.mark.parametrize("name", shipped_rulebooks())
def test_every_shipped_rulebook_loads(name):
    book = load_rulebook(name)
    assert book.name == name and book.description
    assert all("fit" not in response.weights.values() for response in book.responses)


def test_the_rulebook_in_the_manual_loads(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    (book,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if block.startswith("name:")]
    assert make_book(tmp_path, book).name == "delivery"


def test_fitted_weights_lie_beside_their_rulebook(tmp_path):
    text = TWO_CLASSES.replace("good: 2", "good: fit")
    path = write_book(tmp_path, text)
    assert load_rulebook(path).responses[0].weights == {"good": "fit", "short": 0.5}
    saved = save_weights({"any": {"good": 1.25, "short": 9.0}}, path)
    assert saved == tmp_path / "book.weights.json" and json.loads(saved.read_text())["weights"]["any"]["good"] == 1.25
    assert load_rulebook(path).responses[0].weights == {"good": 1.25, "short": 0.5}  # a written number stays
    write_book(tmp_path, text.replace("say thanks?", "say thank you?"))
    with pytest.raises(UserError, match="fitted for another version of the rulebook; fit again, or delete it"):
        load_rulebook(path)
    saved.write_text("[]")
    with pytest.raises(UserError, match="not a file of fitted weights"):
        load_rulebook(path)


def test_with_weights_fills_what_is_to_be_fitted(tmp_path):
    book = make_book(tmp_path, TWO_CLASSES.replace("good: 2", "good: fit"))
    filled = with_weights(book, {"any": {"good": -1.5}})
    assert filled.responses[0].weights == {"good": -1.5, "short": 0.5} and filled.hash != book.hash
    assert with_weights(book, {}) == book
