"""Training as pictures: a chart for each curve that says whether it went well."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from rlaif_dpo.files import Row, read_jsonl
from rlaif_dpo.report.svg import Series, line_chart


@dataclass(frozen=True)
class Figure:
    """A chart with its heading and a line that says how to read it."""

    title: str
    note: str
    svg: Markup


def curves(run: Path) -> list[Figure]:
    """The charts of every training stage that has run, in the order of the stages."""
    sft, dpo, reward, ppo, grpo, rloo = (
        list(read_jsonl(run / stage / "metrics.jsonl"))
        for stage in ("20-sft", "40-dpo", "40-reward", "41-ppo", "41-grpo", "41-rloo")
    )
    figures = [
        Figure("SFT loss", "falls, then levels off", line_chart([_series(sft, "loss", "sft")], "SFT loss by step")),
        *_dpo(dpo),
        *_reward(reward),
        *_answers("DPO", list(read_jsonl(run / "40-dpo" / "looks.jsonl")), "step"),
        *_rollouts("PPO", ppo),
        *_rollouts("GRPO", grpo),
        *_rollouts("RLOO", rloo),
    ]
    return [figure for figure in figures if figure.svg]


def _dpo(rows: Sequence[Row]) -> list[Figure]:
    return [
        Figure(
            "DPO margin",
            "chosen reward less rejected; starts at 0 and rises",
            line_chart([_series(rows, "rewards/margins", "dpo")], "DPO reward margin by step"),
        ),
        Figure(
            "DPO accuracy",
            "share of pairs whose margin is positive",
            line_chart([_series(rows, "rewards/accuracies", "dpo")], "DPO reward accuracy by step"),
        ),
        Figure(
            "Log-probabilities",
            "chosen (in colour) and rejected (grey); both may fall, the gap should widen",
            line_chart(
                [_series(rows, "logps/rejected", "base"), _series(rows, "logps/chosen", "dpo")],
                "log-probability of chosen and rejected answers by step",
            ),
        ),
    ]


def _reward(rows: Sequence[Row]) -> list[Figure]:
    return [
        Figure(
            "Reward model loss",
            "cross-entropy to the judge's probabilities; falls to their entropy at best",
            line_chart([_series(rows, "loss", "ppo")], "reward model loss by step"),
        ),
        Figure(
            "Reward model agreement",
            "share of pairs ranked as the judge ranks them",
            line_chart([_series(rows, "accuracy", "ppo")], "reward model accuracy by step"),
        ),
    ]


def _rollouts(name: str, rows: Sequence[Row]) -> list[Figure]:
    return [
        Figure(
            f"{name} reward",
            "mean score of sampled answers, the SFT model's being 0; rises",
            line_chart([_series(rows, "score", "ppo")], "mean score of sampled answers by update", "update"),
        ),
        *_answers(name, rows, "update"),
    ]


def _answers(name: str, rows: Sequence[Row], by: str) -> list[Figure]:
    """What sampled answers look like beside the SFT model's."""
    return [
        Figure(
            f"{name} distance",
            "KL to the SFT model in nats per answer; rises, then levels off",
            line_chart([_series(rows, "kl", "ppo")], f"KL to the reference by {by}", by),
        ),
        Figure(
            "What the reward does not show",
            "length (in colour), distinct bigrams (orange) and entropy (grey), the SFT model's being 1",
            line_chart(
                [
                    _series(rows, "entropy_ratio", "base"),
                    _series(rows, "distinct_ratio", "sft"),
                    _series(rows, "length_ratio", "ppo"),
                ],
                f"entropy, distinct bigrams and length against the SFT model's by {by}",
                by,
            ),
        ),
        Figure(
            f"{name} boilerplate",
            "answers with the phrase that spread most, above its share at the SFT model; near 0 is good",
            line_chart([_series(rows, "boilerplate", "ppo")], f"growth of the most spread phrase by {by}", by),
        ),
        Figure(
            f"{name} and the held-out judge",
            "how sure it is that it likes what the reward likes, in standard errors; below -3 the reward is gamed",
            line_chart([_series(rows, "held_out", "ppo")], f"agreement of the reward with a held-out judge by {by}", by),
        ),
    ]


def _series(rows: Sequence[Row], key: str, colour: str) -> Series:
    return Series(key, colour, [(row["step"], row[key]) for row in rows if row.get(key) is not None])
