"""The shares of the pair builders in a recipe: what they default to, and every way they can be wrong."""

import re
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe import Recipe, dump_recipe, load_recipe
from rlaif_dpo.recipe.pairs import HumanPairs, Pairs

META = "  builders: {judged: 1, meta_judged: 1}\n"


def load(folder: Path, pairs: str, *overrides: str, more: str = "") -> Recipe:
    path = folder / "r.yaml"
    path.write_text(f"name: x\n{more}pairs:\n{pairs}\n", encoding="utf-8")
    return load_recipe(path, overrides)


def complaint(folder: Path, pairs: str, *overrides: str, more: str = "") -> str:
    with pytest.raises(UserError) as caught:
        load(folder, pairs, *overrides, more=more)
    return str(caught.value).replace(str(folder / "r.yaml"), "r.yaml")


@pytest.mark.parametrize(
    ("pairs", "weights"),
    [
        ("  candidates: 4", {"judged": 1.0}),
        ("  builders:", {"judged": 1.0}),
        ("  builders: {rlcd: 1}", {"rlcd": 1.0}),
        ("  builders: {judged: 0.7, human: 0.3}\n  human: {source: p.jsonl}", {"judged": 0.7, "human": 0.3}),
        ("  human: {source: p.jsonl}", {"judged": 1.0, "human": 1.0}),
        ("  import: {source: s.jsonl}\n  human: {source: p.jsonl}", {"judged": 1.0, "human": 1.0, "import": 1.0}),
        ("  builders: {import: 2}\n  import: {source: s.jsonl}", {"import": 2.0}),
    ],
)
def test_judged_alone_is_the_default_and_what_is_named_is_alone(tmp_path: Path, pairs: str, weights: dict[str, float]) -> None:
    recipe = load(tmp_path, pairs)
    assert recipe.pairs.builders.weights == weights
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_the_command_line_names_builders_too(tmp_path: Path) -> None:
    assert load(tmp_path, "  candidates: 4", "pairs.builders.rlcd=1").pairs.builders.weights == {"rlcd": 1.0}
    both = ("pairs.builders.judged=3", "pairs.builders.import=1", "pairs.import.source=s.jsonl")
    assert load(tmp_path, "  candidates: 4", *both).pairs.builders.weights == {"judged": 3.0, "import": 1.0}
    assert Pairs(human=HumanPairs(source="p.jsonl")).builders.weights == {"judged": 1.0, "human": 1.0}


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        ("  builders: {rlcb: 1}", '4: pairs.builders.rlcb: unknown key. Did you mean "rlcd"?'),
        ("  builders: {rlcd: -1}", "4: pairs.builders.rlcd: expected a number of at least 0, not -1"),
        ("  builders: {rlcd: all}", "4: pairs.builders.rlcd: expected a number of at least 0, not 'all'"),
        ("  builders: rlcd", "4: pairs.builders: expected a section with its keys indented below it, not 'rlcd'"),
        ("  builders: {judged: 0}", "4: pairs.builders: all weights are 0: there would be no pairs"),
        ("  builders: {judged: 1, human: 1}", "4: pairs.builders: `human` needs `pairs.human.source`: the set to read"),
        ("  builders: {import: 1}", "4: pairs.builders: `import` needs `pairs.import.source`: the set to read"),
        (
            "  builders: {judged: 1}\n  human: {source: p.jsonl}",
            "4: pairs.builders: nobody reads `pairs.human.source`; give `human` a weight, or take the source out",
        ),
        (
            "  builders: {rbr_ladder: 1}",
            "3: pairs: `builders.rbr_ladder` needs a rulebook, e.g. `judge.rulebook: refusals`",
        ),
        (
            "  builders: {rbr_ladder: 1}\njudge: {rulebook: refusals, committee: [{model: same}]}",
            "3: pairs: `builders.rbr_ladder` ranks by the rulebook of one judge and knows no committee",
        ),
        (
            "  length_tier: 0.3",
            "4: pairs.length_tier: it makes one judged pair of a prompt; set `per_prompt: 1`, and give `judged` a weight",
        ),
        (
            "  builders: {rlcd: 1}\n  per_prompt: 1\n  length_tier: 0.3",
            "6: pairs.length_tier: it makes one judged pair of a prompt; set `per_prompt: 1`, and give `judged` a weight",
        ),
        ("  length_tier: 0.5", "4: pairs.length_tier: expected a number of at least 0 and below 0.5 or `null`, not 0.5"),
        (
            "  per_prompt: 1\n  length_tier: 0.3\niteration: {anchor_rejected: true}",
            "3: pairs: `length_tier` chooses both answers by their scores, and an anchor gives one; keep one",
        ),
        (
            "  builders: {meta_judged: 1}",
            "3: pairs: `builders.meta_judged` compares judgments of `judged` pairs; give `judged` a weight, too",
        ),
        (
            f"{META}judge: {{model: policy, kind: score}}",
            "3: pairs: `builders.meta_judged` needs one judge of `kind: additive` or `pairwise`",
        ),
        (
            f"{META}judge: {{committee: [{{model: policy}}]}}",
            "3: pairs: `builders.meta_judged` needs one judge of `kind: additive` or `pairwise`",
        ),
        (META, "3: pairs: `builders.meta_judged` trains the policy to judge: set `judge.model: policy`"),
        (
            f"{META}judge: {{model: policy, kind: additive}}",
            "3: pairs: `builders.meta_judged` needs several judgments of a reply: set e.g. `judge.rationales: 3`",
        ),
        (
            f"{META}judge: {{model: policy}}\noptimizer: ppo",
            "3: pairs: `builders.meta_judged` needs `optimizer: dpo`: a reward model scores answers, not judgments",
        ),
        (
            "  candidates: 4\niteration: {judge_rounds: 2}",
            "5: iteration: `judge_rounds` is about `pairs.builders.meta_judged`, which has no weight",
        ),
        (
            "  import: {source: s, chosen_colum: x}",
            '4: pairs.import.chosen_colum: unknown key. Did you mean "chosen_column"?',
        ),
        (
            "  import: {source: s.jsonl, score_columns: [a]}",
            "4: pairs.import.score_columns: it needs two columns: the score of the chosen answer and that of the rejected one",
        ),
        (
            "  import: {source: s.jsonl, score_columns: [a, b], p_column: p}",
            "4: pairs.import.score_columns: `p_column` and `score_columns` both give p; keep one",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, pairs: str, line: str) -> None:
    assert complaint(tmp_path, pairs, more="seed: 1\n") == f"r.yaml:{line}"


def test_per_prompt_is_limited_by_the_candidates_where_there_are_some(tmp_path: Path) -> None:
    said = complaint(tmp_path, "  candidates: 2\n  per_prompt: 2")
    assert re.search(r"pairs.per_prompt: 2 is more than the 1 that 2 candidates can make", said)
    assert load(tmp_path, "  candidates: 2\n  per_prompt: 2\n  builders: {rlcd: 1}").pairs.per_prompt == 2


def test_a_set_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text("{}\n")
    recipe = load(tmp_path, "  import: {source: set.jsonl, p_column: p}")
    assert recipe.pairs.import_.source == str(tmp_path / "set.jsonl") and recipe.pairs.import_.p_column == "p"
