"""Rows out of a file or a Hub dataset, as plain dictionaries. Only a Hub id and Parquet import anything heavy."""

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


def read_rows(source: str, split: str = "train") -> Iterator[Row | None]:
    """The rows of a JSONL, JSONL.gz, CSV or Parquet file, or of `split` of a Hub dataset. None stands for a line that is no row.

    Raises:
        UserError: No such file or dataset, a format that is not read, a broken file.
    """
    path = Path(source)
    if not source.endswith(SUFFIXES):
        if path.exists() or path.suffix in (".gz", ".json", ".txt", ".tsv", ".xlsx"):
            raise UserError(f"Rows cannot be read from {source}; convert it to one of {', '.join(SUFFIXES)}.")
        yield from _hub(source, split)
        return
    try:
        if source.endswith(".parquet"):
            yield from _parquet(path)
        elif source.endswith(".csv"):
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                yield from _csv(file)
        else:
            with gzip.open(path) if source.endswith(".gz") else path.open("rb") as stream:
                for line in stream:
                    if line.strip():
                        yield _json_row(line)
    except FileNotFoundError:
        raise UserError(f"There is no file {source}; check the `source` in the recipe.") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{source} cannot be read ({error}); is the file whole and readable?") from None


def _json_row(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv(file: IO[str]) -> Iterator[Row | None]:
    csv.field_size_limit(sys.maxsize)
    for row in csv.DictReader(file):
        yield {key: value for key, value in row.items() if key is not None and value is not None}


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file ({_first_line(error)}).") from None


def _hub(name: str, split: str) -> Iterator[Any]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, split=split)
    except Exception as error:  # the libraries below raise types of their own, from a missing name to a lost connection
        raise UserError(
            f'"{name}" is neither a file nor a Hub dataset with a split "{split}" that can be reached ({_first_line(error)}).'
        ) from None
    yield from dataset


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
