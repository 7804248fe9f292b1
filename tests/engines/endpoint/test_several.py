"""One endpoint at several URLs: the load is shared, a server that dies is left out, and nothing hangs on who answered."""

import time
from collections import Counter
from pathlib import Path

import pytest

from rlaif_dpo.engines.endpoint import BudgetSpent
from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe import load_recipe
from rlaif_dpo.recipe.schema import Endpoint
from tests.engines.endpoint.conftest import Desk, Open, options, probed_well, texts
from tests.fault_server import Answer, Ask, FaultServer, chat, error, judge, slow


def echo(ask: Ask) -> Answer:
    return Answer(chat(f"re {ask.prompt}"))


def judges_too(ask: Ask) -> Answer:
    return judge()(ask) if ask.prompt.startswith("which") else echo(ask)


def served(server: FaultServer) -> int:
    """Requests but for the probe's."""
    return sum(ask.prompt.startswith(("say", "which")) for ask in server.asks)


def paid(*servers: FaultServer) -> Counter[tuple[str, int | None]]:
    return sum((Counter(server.paid) for server in servers), Counter())


def beside(desk: Desk, other: FaultServer) -> tuple[str, str]:
    return desk.server.url, other.url


def test_two_servers_share_the_rows_and_the_slower_gets_fewer(desk: Open) -> None:
    """Every answer takes .02 s there and .5 s here, with 4 at once at each: were the client free, 24 of 25 would be had there."""
    with FaultServer(probed_well(slow(echo, 0.02, 0.0))) as quick:
        first = desk(slow(echo, 0.5, 0.0))
        here = desk(like=first, base_url=beside(first, quick), concurrency=4)
        rows = list(here.engine.generate(texts(80)))
        assert {row.id: row.text for row in rows} == {f"t{n}": f"re say {n}" for n in range(80)}
        assert served(quick) + served(first.server) == 80
        assert 4 <= served(first.server) < served(quick) / 2
        assert max(quick.peak, first.server.peak) <= 4
        assert here.engine.spending.bought == 80
        assert f"at {first.server.url} and {quick.url} gives" in here.said[0] and len(here.said) == 1


@pytest.mark.parametrize("kind", ["gone", "500", "no such model"])
def test_one_server_dies_and_every_row_comes_from_the_other(desk: Open, kind: str) -> None:
    """After 10 answers one of two is gone for good. What it failed is asked of the other, and nothing is bought twice."""
    answered = 0

    def dies(ask: Ask) -> Answer:
        nonlocal answered
        answered += 1
        if answered <= 10:
            return Answer(chat(f"re {ask.prompt}"), delay=0.005)
        if kind == "gone":
            other._stop.set()
        return error(404, "the model m does not exist", code="model_not_found") if kind == "no such model" else error(500)

    other = FaultServer(probed_well(dies)).__enter__()
    first = desk(slow(echo, 0.02, 0.0))
    here = desk(like=first, base_url=beside(first, other), concurrency=4, max_attempts=3)
    rows = list(here.engine.generate(texts(80)))
    other._loop.call_soon_threadsafe(other._stop.set) if kind != "gone" else None
    other._thread.join()
    assert {row.id: row.text for row in rows} == {f"t{n}": f"re say {n}" for n in range(80)}
    assert {row.outcome for row in rows} == {"ok"}
    assert served(other) >= 10 and sum(paid(first.server, other).values()) <= 80 + 4 + 1, "4 were on their way, and the probe"
    (lost,) = [said for said in here.said if "goes on without" in said]
    assert lost.startswith(f"desk: goes on without {other.url} (")


def test_a_pause_is_one_servers_own(desk: Open) -> None:
    """The first asks everybody to wait a minute; the other one answers all but the row that was asked of it meanwhile."""
    asked = 0

    def busy(ask: Ask) -> Answer:
        nonlocal asked
        asked += 1
        return Answer(error(429).body, 429, {"Retry-After": "1.5"}) if asked == 1 else echo(ask)

    with FaultServer(probed_well(echo)) as other:
        first = desk(busy)
        here = desk(like=first, base_url=beside(first, other), concurrency=1)
        began = time.monotonic()
        ends = {row.id: time.monotonic() - began for row in here.engine.generate(texts(30))}
        late = [id for id, seconds in ends.items() if seconds > 1.4]
        assert len(ends) == 30 and len(late) == 1, late
        assert served(other) == 29


def test_what_one_server_answered_is_had_from_all(desk: Open) -> None:
    """Keys hang on the first URL: with a server more or less, and in the stage's key, it is the same endpoint."""
    with FaultServer(probed_well(judges_too)) as other:
        first = desk(judges_too)
        both = desk(like=first, base_url=beside(first, other), concurrency=4)
        bought = list(both.engine.generate(texts(12)))
        scores = list(both.engine.score_options(options(6)))
        asks = len(first.server.asks) + len(other.asks)
        for urls in (first.server.url, (first.server.url, "http://localhost:1/v1", other.url)):
            again = desk(like=first, base_url=urls)
            assert {row.id: row.text for row in again.engine.generate(texts(12))} == {row.id: row.text for row in bought}
            assert len(list(again.engine.score_options(options(6)))) == len(scores) == 6
            assert again.engine.spending.bought == 0
        assert len(first.server.asks) + len(other.asks) == asks
        assert {call["base_url"] for call in first.store.export()} == {first.server.url}


def test_the_first_may_be_dead_from_the_start(desk: Open) -> None:
    with FaultServer(probed_well(echo)) as other:
        here = desk(echo, base_url=("http://localhost:1/v1", other.url), max_attempts=2)
        assert len(list(here.engine.generate(texts(10)))) == 10
        assert here.said[0].startswith("desk: goes on without http://localhost:1/v1 (") and served(other) == 10


def test_with_all_of_them_dead_the_run_ends(desk: Open) -> None:
    def none(ask: Ask) -> Answer:
        return error(500)

    with FaultServer(probed_well(none)) as other:
        first = desk(none)
        here = desk(like=first, base_url=beside(first, other), concurrency=2, max_attempts=2)
        with pytest.raises(UserError, match="rows in a row failed"):
            list(here.engine.generate(texts(40)))


def test_the_budget_is_one(desk: Open) -> None:
    with FaultServer(probed_well(echo)) as other:
        first = desk(echo)
        here = desk(like=first, base_url=beside(first, other), concurrency=3, max_calls=11)
        with pytest.raises(BudgetSpent):
            list(here.engine.generate(texts(40)))
        assert len(first.server.asks) + len(other.asks) <= 11


def test_a_recipe_lists_servers(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"

    def endpoint(url: str) -> Endpoint:
        path.write_text(f"name: x\nendpoints:\n  desk: {{base_url: {url}, model: m}}\n")
        return load_recipe(path).endpoints["desk"]

    assert endpoint("http://a/v1").urls == ("http://a/v1",)
    both = endpoint("[http://a/v1, http://b/v1]")
    assert both.urls == ("http://a/v1", "http://b/v1") and both.most_at_once == 64
    with pytest.raises(UserError, match="base_url: it names a server twice"):
        endpoint("[http://a/v1, http://a/v1/]")
    with pytest.raises(UserError, match="it must look like https://host/v1"):
        endpoint("[http://a/v1, http://user:key@b/v1]")
