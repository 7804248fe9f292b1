from dataclasses import dataclass

from rlaif_dpo.engines.batches import isolate, pack


@dataclass(frozen=True)
class Item:
    id: str


def test_pack_keeps_rows_times_longest_within_the_budget():
    """Budget 10: 2 x 5 = 10 fits, a third row would be 15; 3 x 3 = 9 fits; 12 is above the budget and runs alone."""
    lengths = [12, 5, 5, 3, 3, 3, 1]
    assert list(pack(lengths, rows=lambda n: 1, length=lambda n: n, budget=10)) == [[12], [5, 5], [3, 3, 3], [1]]
    assert list(pack([], rows=lambda n: 1, length=lambda n: n, budget=10)) == []


def test_isolate_halves_down_to_the_row_that_fails():
    """4 rows, the third is bad: abcd fails, ab runs, cd fails, c fails alone, d runs."""
    runs = []

    def run(rows):
        runs.append("".join(row.id for row in rows))
        if any(row.id == "c" for row in rows):
            raise MemoryError("too\nmuch")
        yield from rows

    seen = list(isolate([Item(i) for i in "abcd"], run, lambda row, reason: Item(f"{row.id}: {reason}")))
    assert [item.id for item in seen] == ["a", "b", "c: MemoryError: too much", "d"]
    assert runs == ["abcd", "ab", "cd", "c", "d"]


def test_isolate_yields_no_row_twice():
    """The batch fails after a and b came out: only c and d are run again."""

    def run(rows):
        for n, row in enumerate(rows):
            if n == 2:
                raise RuntimeError("late")
            yield row

    seen = list(isolate([Item(i) for i in "abcd"], run, lambda row, reason: Item("failed")))
    assert [item.id for item in seen] == ["a", "b", "c", "d"]
