import asyncio
import time

import pytest

from rlaif_dpo.engines.base import Usage
from rlaif_dpo.engines.endpoint.gate import Closed, Gate, Pace
from rlaif_dpo.engines.endpoint.spending import BudgetSpent, Meter, add, cost
from rlaif_dpo.recipe.schema import Endpoint, Price

CALL = Usage(100, 20)


def gate(**settings) -> Gate:
    endpoint = Endpoint(base_url="http://x/v1", model="m", **settings)
    return Gate(endpoint, "desk", Meter(endpoint), lambda sentence: None)


def run(coroutine):
    """The coroutine's result; a gate that never opens fails after a minute."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_concurrency_is_bounded_and_places_are_passed_on():
    async def work() -> int:
        here, peak = gate(concurrency=3), 0

        async def one() -> None:
            nonlocal peak
            hold = await here.enter(100, 20)
            peak = max(peak, here.in_flight)
            await asyncio.sleep(0)
            here.leave(hold, CALL)

        await asyncio.gather(*(one() for _ in range(50)))
        assert here.in_flight == 0
        return peak

    assert run(work()) == 3


def test_a_push_back_halves_once_for_what_was_in_flight_and_replies_grow_it_again():
    """16 in flight; all are pushed back: 8. A later one: 4. Then 48 replies at a quarter each: 16, and no more."""

    async def work() -> None:
        here = gate(concurrency=16)
        sent = time.monotonic()
        for _ in range(16):
            here.push_back(0.0, sent)
        assert here.limit == 8
        here.push_back(0.0, time.monotonic())
        assert here.limit == 4
        for _ in range(48):
            here.grow()
        assert here.limit == 16
        here.grow()
        assert here.limit == 16
        for _ in range(99):
            here.push_back(0.0, time.monotonic())
        assert here.limit == 1

    run(work())


def test_nobody_enters_during_a_cooldown():
    async def work() -> None:
        here, start = gate(concurrency=4), time.monotonic()
        here.push_back(0.3, start)
        await asyncio.gather(here.enter(100, 20), here.enter(100, 20))
        assert time.monotonic() - start >= 0.3

    run(work())


def test_the_pace_spreads_requests_and_corrects_tokens():
    """120 a minute: one each half second. A minute's 600 tokens are 10 a second: after 20 tokens two seconds, after a
    correction by -10 one second less.
    """
    pace = Pace(120)
    assert [pytest.approx(pace.reserve(1), abs=0.1) for _ in range(3)] == [0, 0.5, 1.0]
    tokens = Pace(600)
    assert tokens.reserve(20) == 0
    tokens.correct(-10)
    assert tokens.reserve(10) == pytest.approx(1, abs=0.1)
    assert [Pace(None).reserve(10**6) for _ in range(2)] == [0, 0]


def test_requests_per_minute():
    async def work() -> float:
        here, start = gate(requests_per_minute=600), time.monotonic()
        await asyncio.gather(*(here.enter(100, 20) for _ in range(6)))
        return time.monotonic() - start

    assert run(work()) >= 0.5, "600 a minute are one each .1 s: the sixth starts after .5 s"


def test_closing_wakes_all_who_wait():
    async def work() -> None:
        here = gate(concurrency=1)
        await here.enter(100, 20)
        waiting = [asyncio.create_task(here.enter(100, 20)) for _ in range(3)] + [asyncio.create_task(here.pause(600))]
        await asyncio.sleep(0.01)
        here.close(ValueError("first"))
        here.close(ValueError("second"))
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [Closed] * 4
        assert str(here.reason) == "first"

    run(work())


def test_a_cancelled_waiter_passes_its_place_on():
    async def work() -> None:
        here = gate(concurrency=1)
        hold = await here.enter(100, 20)
        first, second = (asyncio.create_task(here.enter(100, 20)) for _ in range(2))
        await asyncio.sleep(0.01)
        here.leave(hold, CALL)
        first.cancel()
        await second

    run(work())


def test_max_calls_is_exact():
    async def work() -> tuple[int, str]:
        here = gate(max_calls=5, concurrency=4)

        async def one() -> None:
            hold = await here.enter(100, 20)
            await asyncio.sleep(0.001)
            here.leave(hold, CALL)

        ends = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
        assert isinstance(here.reason, BudgetSpent)
        return sum(end is None for end in ends), str(here.reason)

    done, sentence = run(work())
    assert done == 5
    assert sentence == (
        "endpoints.desk.max_calls = 5 leaves no room for another call (5 requests, 600 tokens, price unknown); every answer "
        "is kept: raise endpoints.desk.max_calls and run again to go on"
    )


@pytest.mark.parametrize(
    ("limits", "calls"),
    [({"max_tokens": 1000}, 8), ({"max_usd": 0.0005, "price": Price(input=1, output=2)}, 3), ({"max_tokens": 100}, 0)],
)
def test_money_and_tokens_are_not_overspent(limits, calls):
    """A call takes 120 tokens, 100 * $1/M + 20 * $2/M = $.00014; room for 8 in 1000 tokens, for 3 in $.0005; and all ten
    start at once: what is in flight is held for. Held are 64 completion tokens until the mean, 20, is known.
    """

    async def work() -> int:
        here, done = gate(concurrency=10, **limits), 0

        async def one() -> None:
            nonlocal done
            hold = await here.enter(100, 64)
            await asyncio.sleep(0.001)
            here.leave(hold, CALL)
            done += 1

        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(10)), return_exceptions=True)
        return done

    assert run(work()) == calls


def test_estimates_learn_from_what_the_server_counts():
    """The first call was taken for 100 prompt tokens and had 200, and its answer 20 of 64: the next one of 50 will take 100
    and 20, or 8 if there is no more room.
    """
    meter = gate()._meter
    first = meter.estimate(100, 64)
    assert first.usage == Usage(100, 64, estimated=True)
    meter.send(first)
    meter.receive(first, Usage(200, 20))
    assert meter.estimate(50, 64).usage == Usage(100, 20, estimated=True)
    assert meter.estimate(50, 8).usage == Usage(100, 8, estimated=True)


def test_costs():
    """1000 prompt tokens of which 400 cached, 100 completion: 600 * 2 + 400 * .5 + 100 * 8 = 2200 dollars a million."""
    usage = Usage(1000, 100, cached=400, reasoning=50)
    assert cost(usage, Price(input=2, output=8, cached_input=0.5)) == pytest.approx(0.0022)
    assert cost(usage, Price(input=2, output=8)) == pytest.approx(0.0028)
    assert cost(usage, None) is None
    assert add(usage, Usage(1, 2, estimated=True)) == Usage(1001, 102, 400, 50, True)
