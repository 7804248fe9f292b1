"""Benchmarks from files: multiple-choice questions, and questions with an exact answer."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.files import Row
from rlaif_dpo.prompts.sources import SUFFIXES, read_rows

COLUMNS = ("question", "options", "answer")
HARNESS_SUFFIXES = (".yaml", ".yml")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Item:
    """One question. With `options`, `answers` holds the index of the right one; without, every text that counts as right."""

    id: str
    question: str
    options: tuple[str, ...]
    answers: tuple[Any, ...]


@dataclass(frozen=True)
class Benchmark:
    """The questions of one file, all of one kind."""

    name: str
    kind: Literal["choice", "exact"]
    items: tuple[Item, ...]


def is_file(task: str) -> bool:
    """Whether a task is a file of questions, and not a task of lm-eval: by its name, or by a YAML file that describes it."""
    return task.endswith(SUFFIXES) or (Path(task).is_file() and not task.endswith(HARNESS_SUFFIXES))


def read_benchmark(source: str, columns: Mapping[str, str], limit: int | None = None) -> Benchmark:
    """The first `limit` questions of a JSONL, JSONL.gz, CSV or Parquet file.

    `question` is a text. With `options`, a list of texts (or `{"text": [...], "label": [...]}`, as ARC has it), the file is
    multiple choice, and `answer` is the right option's text, label, letter or index from 0. Without, `answer` is the right text
    or a list of them. `columns` maps these names to the file's own.

    Raises:
        UserError: An unknown name in `columns`, no such file or column, a row that cannot be read (with its number), no row.
    """
    for name in columns:
        if name not in COLUMNS:
            raise UserError(f'--columns: a benchmark has no "{name}".{did_you_mean(name, COLUMNS)}')
    question, options, answer = (columns.get(name, name) for name in COLUMNS)
    items, kinds = [], set()
    for number, row in enumerate(read_rows(source), start=1):
        where = f"{source}, row {number}"
        if row is None:
            raise UserError(f"{where} is not a row; mend the line or take it out.")
        for name, column in (("question", question), ("answer", answer)):
            if column not in row:
                raise UserError(f'{where} has no column "{column}"; --columns {name}=... names it.{did_you_mean(column, row)}')
        if options != "options" and options not in row:
            raise UserError(f'{where} has no column "{options}".{did_you_mean(options, row)}')
        kinds.add(options in row)
        items.append(_item(str(number), row, row[question], row.get(options), row[answer], where))
        if len(items) == limit:
            break
    if not items:
        raise UserError(f"{source} has no rows; a benchmark needs at least one question.")
    if len(kinds) > 1:
        raise UserError(f'{source}: some rows have "{options}" and some do not; make it two files.')
    name = Path(source).name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return Benchmark(name, "choice" if kinds.pop() else "exact", tuple(items))


def _item(id: str, row: Row, question: Any, options: Any, answer: Any, where: str) -> Item:
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the question must be a text.")
    if options is None:
        answers = answer if isinstance(answer, list) else [answer]
        if not answers or not all(isinstance(text, str | int | float) for text in answers):
            raise UserError(f"{where}: the answer must be a text, or a list of texts.")
        return Item(id, question, (), tuple(str(text) for text in answers))
    texts, labels = _options(options, where)
    return Item(id, question, texts, (_right(answer, texts, labels, where),))


def _options(cell: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of the options and their labels: those of the file, else the letters from A."""
    if isinstance(cell, str):  # CSV holds the list as JSON
        try:
            cell = json.loads(cell)
        except ValueError:
            raise UserError(f"{where}: options must be a list of texts; in a CSV file, as JSON.") from None
    given = cell if isinstance(cell, Mapping) else {"text": cell}
    texts, labels = given.get("text"), given.get("label")
    if not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) < 2 or not all(isinstance(t, str) for t in texts):
        raise UserError(f"{where}: options must be a list of two texts or more.")
    if not all(texts):
        raise UserError(f"{where}: an option is empty.")
    return tuple(texts), tuple(map(str, labels)) if labels else tuple(string.ascii_uppercase[: len(texts)])


def _right(answer: Any, texts: Sequence[str], labels: Sequence[str], where: str) -> int:
    if isinstance(answer, str):
        for known in (texts, labels):
            if answer.strip() in known:
                return known.index(answer.strip())
        answer = int(answer) if answer.strip().isdecimal() else answer
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    raise UserError(f"{where}: the answer is {answer!r}; give an option's text, its letter, or its index from 0.")


def grade_choice(item: Item, logprobs: Sequence[float]) -> Row:
    """{"acc", "acc_norm"}: whether the likeliest option is the right one, as it is and per byte (Gao 2021)."""
    sizes = [len(option.encode()) for option in item.options]
    best = max(range(len(logprobs)), key=lambda i: logprobs[i])
    best_per_byte = max(range(len(logprobs)), key=lambda i: logprobs[i] / sizes[i])
    return {"acc": float(best in item.answers), "acc_norm": float(best_per_byte in item.answers)}


def grade_text(item: Item, text: str, extract: re.Pattern[str] | None) -> Row:
    """{"exact_match"}: whether the answer is right but for case, punctuation, articles and blanks (Rajpurkar et al. 2016).

    With `extract`, its last match counts in place of the whole text: its first group, where it has one.
    """
    if extract is not None:
        found = list(extract.finditer(text))
        text = (found[-1][1] if extract.groups else found[-1][0]) or "" if found else ""
    return {"exact_match": float(plain(text) in {plain(answer) for answer in item.answers})}


def plain(text: str) -> str:
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())
