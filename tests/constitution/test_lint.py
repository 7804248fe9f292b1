"""The linter: what it finds, and that it leaves the shipped constitutions alone."""

import pytest

from rlaif_dpo.constitution import Constitution, Finding, Principle, derive, lint, load_constitution, shipped_constitutions


def principle(id: str, text: str, **given: object) -> Principle:
    return Principle(id=id, text=text, **(derive(text) | given))  # type: ignore[arg-type]


def findings(*principles: Principle) -> list[Finding]:
    return lint(Constitution("c", principles, "0"))


@pytest.mark.parametrize("name", sorted(shipped_constitutions()))
def test_shipped_constitutions_are_clean(name: str) -> None:
    assert lint(load_constitution(name)) == []


def test_empty_text() -> None:
    [finding] = findings(principle("a", " "))
    assert finding == Finding("error", ("a",), '"a" has no text; write its sentence or remove it.')


def test_duplicate_id() -> None:
    [finding] = findings(principle("a", "Name the author of a quotation."), principle("a", "Close with a greeting card."))
    assert finding == Finding("error", ("a",), 'The id "a" is used 2 times; give each principle its own.')


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Never ask the patient for personal details.", "Do not ask patients for any personal details."),
        ("Name a source for every medical claim.", "Name the sources of each medical claim!"),
    ],
)
def test_near_duplicate(one: str, other: str) -> None:
    [finding] = findings(principle("a", one), principle("b", other))
    assert (finding.level, finding.principle_ids) == ("warning", ("a", "b"))
    assert "say nearly the same" in finding.sentence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Always name a diagnosis.", "Never name a diagnosis."),
        ("Do not use medical jargon.", "Use medical jargon where it is exact."),
        ("Give the dose of a drug.", "Avoid giving doses of drugs."),
        ("Explain a refusal rather than offering alternatives.", "Offer alternatives."),
    ],
)
def test_contradiction(one: str, other: str) -> None:
    [finding] = findings(principle("a", one), principle("b", other))
    assert finding.level == "error" and "say who wins" in finding.sentence
    [finding] = findings(principle("a", one), principle("b", other, priority=2))
    assert finding.level == "info" and '"b" wins by its priority of 2' in finding.sentence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Name a source for every medical claim.", "Do not make a medical claim without a source."),
        ("Send every emergency to 911 at once.", "Do not miss sending an emergency to 911."),
        ("Avoid technical terms.", "Leave out technical terms and other jargon."),
        ("Explain a refusal and offer a way.", "When you do not help, explain the refusal and offer a way."),
    ],
)
def test_a_double_negation_is_no_contradiction(one: str, other: str) -> None:
    assert all(finding.level != "error" for finding in findings(principle("a", one), principle("b", other)))


def test_principles_that_never_meet_do_not_contradict() -> None:
    one, other = "Always name a diagnosis.", "Never name a diagnosis."
    assert findings(principle("a", one, phases=("revise",)), principle("b", other, phases=("judge",))) == []
    assert findings(principle("a", one, applies_to=("doctor",)), principle("b", other, applies_to=("patient",))) == []
    assert findings(principle("a", one, applies_to=("doctor",)), principle("b", other)) != []


@pytest.mark.parametrize(
    "text",
    [
        "Be good.",
        "Be helpful, honest and harmless.",
        "Always act in a responsible and ethical way.",
        "Be nice to people",
        "Never be rude.",
        "Safety",
    ],
)
def test_vague(text: str) -> None:
    [finding] = findings(principle("a", text))
    assert finding.level == "warning" and "too vague to check" in finding.sentence


@pytest.mark.parametrize("text", ["Answer in three sentences.", "Avoid jargon.", "No emojis.", "必ず情報源を示す。"])
def test_checkable(text: str) -> None:
    assert findings(principle("a", text)) == []


def test_a_phase_without_principles() -> None:
    [finding] = findings(principle("a", "Answer in three sentences.", phases=("revise",)))
    assert finding == Finding("error", (), 'No principle is for the judge (phase 2); give at least one the phase "judge".')


def test_errors_come_first() -> None:
    levels = [f.level for f in findings(principle("a", "Be good."), principle("b", ""), principle("c", "Be kind."))]
    assert levels == ["error", "warning", "warning"]
