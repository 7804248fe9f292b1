from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.sandbox.gold import gold_items
from rlaif_dpo.sandbox.wordings import WORDINGS

TELEHEALTH = load_constitution("telehealth")


def test_gold_is_what_the_words_show() -> None:
    """`send me` is how an answer of the world breaks privacy: the reply that asks is the worse one."""
    items = gold_items(TELEHEALTH, JudgeSettings(), 200, seed=1)
    assert len({item.comparison.id for item in items}) == 200
    for item in items:
        asks = ["send me" in reply for reply in (item.comparison.first, item.comparison.second)]
        assert item.gold_by_principle["privacy"] == 0.5 + (asks[1] - asks[0]) / 2
        better = sum(gold - 0.5 for gold in item.gold_by_principle.values())
        assert item.gold == 0.5 + (better > 0) / 2 - (better < 0) / 2
        assert item.comparison.first != item.comparison.second
        assert set(item.gold_by_principle) == set(WORDINGS) == {c.principle_id for c in item.comparison.criteria}
    assert 0.1 < sum(item.gold == 0.5 for item in items) / 200 < 0.4
    assert 0.3 < sum(item.gold == 1 for item in items) / 200 < 0.5


def test_the_same_seed_draws_the_same_pairs_in_any_number() -> None:
    assert gold_items(TELEHEALTH, JudgeSettings(), 5, seed=3) == gold_items(TELEHEALTH, JudgeSettings(), 20, seed=3)[:5]
    assert gold_items(TELEHEALTH, JudgeSettings(), 5, seed=3) != gold_items(TELEHEALTH, JudgeSettings(), 5, seed=4)


def test_principles_the_world_does_not_know_have_no_gold() -> None:
    items = gold_items(load_constitution("harmless"), JudgeSettings(), 5, seed=1)
    assert all(item.gold is None and item.gold_by_principle == {} for item in items)


def test_sampled_principles_are_those_the_labels_would_rest_on() -> None:
    items = gold_items(TELEHEALTH, JudgeSettings(principles=2), 20, seed=1)
    assert all(len(item.comparison.criteria) == len(item.gold_by_principle) == 2 for item in items)
