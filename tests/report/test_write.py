import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from rlaif_dpo.files import read_jsonl, write_json, write_jsonl
from rlaif_dpo.judges.audit.probes import KINDS
from rlaif_dpo.report.audit import PROBES
from rlaif_dpo.report.evidence import FINAL_STAGE, evidence
from rlaif_dpo.report.gallery import gallery, losses
from rlaif_dpo.report.story import story
from rlaif_dpo.report.write import write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Balanced tags, and what the page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(page: Path) -> Checker:
    checker = Checker()
    checker.feed(page.read_text(encoding="utf-8"))
    assert checker.open == []
    return checker


def test_one_file_without_network_or_scripts(run_dir: Path) -> None:
    page = parse(write_report(run_dir))
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "srcset", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in (run_dir / "report.html").read_text()
    assert "@import" not in (run_dir / "report.html").read_text()


def test_texts_of_prompts_and_models_are_escaped(run_dir: Path) -> None:
    html = write_report(run_dir).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "<b>insurance" not in html
    assert "你好 é" in html


def test_unpaired_surrogates_do_not_break_the_page(run_dir: Path) -> None:
    rows = list(read_jsonl(run_dir / "50-evaluate" / "answers.jsonl"))
    write_jsonl(run_dir / "50-evaluate" / "answers.jsonl", [row | {"text": row["text"] + " \ud83d \x00"} for row in rows])
    assert write_report(run_dir).read_text(encoding="utf-8")


def test_accessible(run_dir: Path) -> None:
    page = parse(write_report(run_dir))
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert all("aria-label" in a or a.get("aria-hidden") == "true" for tag, a in page.tags if tag == "svg")
    assert dict(page.tags)["html"]["lang"] == "en"
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= ids
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_colours_have_contrast() -> None:
    """WCAG 2.2: text 4.5:1, marks 3:1, on the page and on cards, in light and dark."""
    css = (Path(__file__).parents[2] / "rlaif_dpo" / "report" / "pages" / "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for theme in (light, dark):
        for ground in (theme["page"], theme["card"]):
            assert all(contrast(theme[name], ground) >= 4.5 for name in ("ink", "soft", "accent", "bad", "good"))
            assert all(contrast(theme[name], ground) >= 3 for name in ("base", "sft", "dpo", "ppo"))


def test_the_numbers_on_the_page_are_those_of_the_evidence(run_dir: Path) -> None:
    found = evidence(run_dir)
    text = " ".join(parse(write_report(run_dir)).text)
    for policy in ("base", "sft", "dpo"):
        assert f"{100 * found['truth'][policy]['adherence']['value']:.1f}%" in text
    assert found["health"]["verdict"] in text
    assert found["run"]["constitution"]["hash"] in text
    assert "unchanged though flagged" in text
    assert "rlaif-dpo run" in text


def test_story_is_ten_lines_and_says_what_was_measured(run_dir: Path) -> None:
    lines = story(evidence(run_dir))
    assert [topic for topic, _ in lines] == [
        "Adherence", "Principles", "Knowledge", "Refusals", "Judge", "Text", "Data", "Labels", "Training", "Cost",
    ]  # fmt: skip
    assert all(sentence.endswith(".") for _, sentence in lines)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.08, -0.01, "an alignment tax"), (-0.03, 0.02, "no change that"), (0.01, 0.05, "a gain")]
)
def test_story_calls_a_tax_a_tax(run_dir: Path, low: float, high: float, verdict: str) -> None:
    found = evidence(run_dir)
    found["truth"]["differences"]["dpo-base"]["knowledge"] = {"value": (low + high) / 2, "low": low, "high": high, "n": 40}
    assert verdict in dict(story(found))["Knowledge"]


def test_gallery_shows_each_kind_and_the_worst(run_dir: Path) -> None:
    exhibits = gallery(run_dir)
    assert [exhibit.kind for exhibit in exhibits[:-1]] == ["ordinary", "emergency", "dangerous", "lookalike"]
    assert not any(exhibit.worse for exhibit in exhibits[:-1])
    worst = exhibits[-1]
    assert worst.worse
    assert len(worst.answers[0].kept) > len(worst.answers[-1].kept)
    assert [answer.policy for answer in worst.answers] == ["base", "sft", "dpo"]
    assert losses(run_dir) == 1


def test_gallery_without_truth_goes_by_the_judge(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", truth=False)
    exhibits = gallery(run)
    assert exhibits
    assert all("by the judge" in exhibit.why for exhibit in exhibits)
    assert losses(run) is None
    assert parse(write_report(run))


@pytest.mark.parametrize("until", ["00-prompts", "10-revise", "20-sft", "25-audit", "30-pairs", "40-dpo", "50-evaluate"])
def test_a_run_that_stopped_early_gets_a_page_and_a_card(make_run: Callable[..., Path], tmp_path: Path, until: str) -> None:
    run = make_run(tmp_path / "run", until=until)
    assert parse(write_report(run))
    card = (run / "README.md").read_text()
    assert card.startswith("---\n")
    assert ("not finished" in card) == (until != "50-evaluate")


def test_the_audit_has_its_section(run_dir: Path) -> None:
    """The numbers, what was accepted, and in the model card, too; a judge that was refused is called so."""
    shown = " ".join(" ".join(parse(write_report(run_dir)).text).split())
    assert "The judge's audit" in shown and "failed, accepted" in shown
    for name in (
        "prefers the same reply as gold",
        "both orders prefer the same reply",
        "gain of the reply that stands first, in logits",
        "gain of the longer reply, in logits",
        "probability on the options",
        "expected calibration error",
        "refused or filtered",
        "its sentences in another order: preferred one",
        "Passed: ",
    ):
        assert name in shown, name
    assert "that the recipe accepts: padded." in (run_dir / "README.md").read_text()
    path = run_dir / "25-audit" / "audit.json"
    found = json.loads(path.read_text())
    found["gate"] |= {"refused": found["gate"]["accepted"], "accepted": [], "may_label": False}
    path.write_text(json.dumps(found))
    assert "This judge may not label." in " ".join(parse(write_report(run_dir)).text)


def test_the_gaps_have_their_section_and_a_line_of_the_card(run_dir: Path) -> None:
    """Every link with its loss or what would measure it, the weakest in a sentence, and the judge beside the policy."""
    found = evidence(run_dir)["gaps"]
    shown = " ".join(" ".join(parse(write_report(run_dir)).text).split())
    assert "Where it gets lost" in shown and found["finding"] in shown
    assert "`" not in shown.partition("What to do:")[2].partition("What is counted")[0], "settings are set as code"
    for name, link in found["links"].items():
        assert name.replace("-", " → ") in shown and (link["missing"] or link["counts"]) in shown, name
    assert found["links"]["labels-reward"]["missing"] and "goal → policy, in all" in shown
    assert "The judge beside the policy" in shown and found["capability"]["finding"] in shown
    assert f"- Gaps: {found['finding']}\n" in (run_dir / "README.md").read_text(encoding="utf-8")


def test_each_planted_probe_is_said_in_words() -> None:
    assert set(PROBES) == set(KINDS)


def test_a_run_without_dpo(run_dir: Path) -> None:
    """Only base and SFT were evaluated: the report compares those."""
    results = run_dir / "50-evaluate" / "results.json"
    found = json.loads(results.read_text())
    for section in (found["truth"]["policies"], found["text"]["policies"], found["text"]["boilerplate"], found["missing"]):
        del section["dpo"]
    for section in (found["truth"]["differences"], found["judge"]["comparisons"]):
        for pair in [pair for pair in section if "dpo" in pair]:
            del section[pair]
    results.write_text(json.dumps(found))
    answers = run_dir / "50-evaluate" / "answers.jsonl"
    write_jsonl(answers, [row for row in list(read_jsonl(answers)) if row["policy"] != "dpo"])
    assert parse(write_report(run_dir))


def test_a_run_of_ppo(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Its policies and pictures have PPO's name, and DPO's is nowhere; the tripwire on KL shows with its limits."""
    run = make_run(tmp_path / "run", optimizer="ppo")
    found, page = evidence(run), parse(write_report(run))
    text = " ".join(page.text)
    assert list(found["truth"])[:3] == ["base", "sft", "ppo"]
    assert found["health"]["status"] == "warning" and found["reward"]["status"] == "healthy"
    assert found["health"]["verdict"] in text and found["reward"]["verdict"] in text
    assert "from an AI judge's preferences (a reward model and PPO)" in text and "The AI judge prefers PPO to base" in text
    for title in ("Reward model loss", "PPO reward", "PPO distance", "What the reward does not show", "PPO boilerplate"):
        assert title in text
    for check in ("kl", "reward gain", "distinct ratio", "length ratio", "entropy ratio", "boilerplate"):
        assert check in text
    card = (run / "README.md").read_text(encoding="utf-8")
    assert '"41-ppo/adapter"' in card and "- ppo\n" in card
    for made in (text.replace("rlaif-dpo", ""), card.replace("rlaif-dpo", "")):
        assert "DPO" not in made and "40-dpo" not in made


@pytest.mark.parametrize("optimizer", ["grpo", "rloo"])
def test_a_run_of_groups(make_run: Callable[..., Path], tmp_path: Path, optimizer: str) -> None:
    """What it earned and which groups taught nothing; the other optimizers are nowhere."""
    run, name = make_run(tmp_path / "run", optimizer=optimizer), optimizer.upper()
    found, page = evidence(run), parse(write_report(run))
    text, card = " ".join(page.text), (run / "README.md").read_text(encoding="utf-8")
    assert list(found["truth"])[:3] == ["base", "sft", optimizer] and found["run"]["rewards"] == "1 model"
    assert found["health"]["verdict"] in text and found["cost"]["tokens"] == 48 * 30 + 120 * 50
    assert f"then from what its answers earn ({name})" in text and f"{name} reward" in text and "zero variance" in text
    assert f"`41-{optimizer}/adapter` ({name} for 1 model" in card and "40-reward/adapter" in card
    for made in (text.replace("rlaif-dpo", ""), card.replace("rlaif-dpo", "")):
        assert not any(other in made for other in ("DPO", "PPO", "40-dpo", "41-ppo"))


def test_colours_of_every_policy_are_in_the_style() -> None:
    css = (Path(__file__).parents[2] / "rlaif_dpo" / "report" / "pages" / "style.css").read_text()
    for policy in ("base", "sft", *FINAL_STAGE):
        assert all(f".{mark}.{policy}" in css for mark in ("line", "whisker", "dot", "bar", "key")), policy


def test_model_card(run_dir: Path) -> None:
    write_report(run_dir)
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    front = card.split("---\n")[1]
    assert "base_model" not in front  # the Hub knows no model of that name
    assert "| base model | `sandbox` |" in card
    assert "library_name: peft" in front
    assert "- constitutional-ai" in front
    assert "Never ask for identifying information." in card
    assert "## Limits" in card
    assert "| privacy |" in card
    assert evidence(run_dir)["run"]["command"] in card
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in table if "privacy" in line or "knowledge" in line} == {5}


@pytest.mark.parametrize("final", ["dpo", "grpo"])
def test_the_tax_is_a_table_and_a_line_of_the_story(make_run: Callable[..., Path], tmp_path: Path, final: str) -> None:
    """`<facts>`: 6 of 10 items right, then 2; `sums` gains. The page has every task, the worst one, and flips."""
    from rlaif_dpo.evaluate.tax import tax_results

    run_dir = make_run(tmp_path / "run", optimizer=final)
    rights = {"<facts>": {"base": 6, "sft": 6, final: 2}, "sums": {"base": 1, "sft": 1, final: 9}}
    rows = [
        {"policy": policy, "task": task, "item": str(n), "error": None, "acc": float(n < right), "acc_norm": float(n < right)}
        for task, of in rights.items()
        for policy, right in of.items()
        for n in range(10)
    ]
    refused = {policy: {"value": 0.05, "low": 0.0, "high": 0.1, "n": 40} for policy in ("base", "sft", final)}
    write_json(run_dir / "tax" / "results.json", tax_results(rows, ("base", "sft", final), 100, 0) | {"over_refusal": refused})
    text = write_report(run_dir).read_text()
    assert "What it cost" in text and f"base less {final.upper()}" in text
    assert "&lt;facts&gt;" in text and "<td>4 / 0</td>" in text and "<td>0 / 8</td>" in text
    told = dict(story(evidence(run_dir)))["Tax"]
    assert told.startswith("Benchmarks that lose: 1 of 2, 40.0 points on average; the worst is “<facts>” with 40.0")
    assert "4 items went wrong, 0 right); over-refusal stands at 5.0%." in told
