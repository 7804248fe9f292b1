import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from math import exp, log
from pathlib import Path

import pytest

from rlaif_dpo.engines.base import OptionRequest, Request, Sampling
from rlaif_dpo.engines.endpoint import BudgetSpent, EndpointEngine
from rlaif_dpo.errors import UserError
from rlaif_dpo.messages import user
from rlaif_dpo.recipe.schema import Price
from tests.engines.endpoint.conftest import PROBED, Open, no_logprobs, options, plain, probed_well, texts
from tests.fault_server import Answer, FaultServer, chat, error, judge, slow

ROOT = Path(__file__).parents[3]


def test_texts_come_out_as_they_finish_and_are_bought_once(desk: Open):
    """The first of three is the slowest. The next run, on the same store, asks nothing; without the store it asks again."""
    here = desk(lambda ask: Answer(chat(f"{ask.prompt}!"), delay=0.6 if ask.prompt == "say 0" else 0.0))
    rows = list(here.engine.generate(texts(3), skip={"t9"}))
    assert [row.id for row in rows][-1] == "t0"
    assert {row.id: row.text for row in rows} == {f"t{n}": f"say {n}!" for n in range(3)}
    assert here.engine.spending.bought == 3 and here.engine.spending.calls == 4
    later = desk(like=here)
    assert {row.id: (row.text, row.spent) for row in later.engine.generate(texts(3))} == {
        row.id: (row.text, row.spent) for row in rows
    }
    assert (later.engine.spending.calls, later.engine.spending.from_store, later.engine.spending.tokens) == (0, 3, 0)
    assert len(list(desk(like=here, stored=False).engine.generate(texts(3), skip={"t0"}))) == 2
    assert len(here.asks) == 5


def test_what_is_sent(desk: Open):
    here = desk(lambda ask: Answer(chat("x")))
    sampled = Request("a", (user("q"),), Sampling(0.7, 0.9, 33), 2**62 + 5)
    greedy = Request("b", (user("r"),), Sampling(0.0, 1.0, 33), 7)
    list(here.engine.generate([sampled, greedy]))
    bodies = {ask.prompt: ask.body for ask in here.asks}
    assert bodies["q"] == {
        "model": "m", "messages": [{"role": "user", "content": "q"}], "max_tokens": 33, "temperature": 0.7, "top_p": 0.9,
        "seed": 5,
    }  # fmt: skip
    assert bodies["r"] == {"model": "m", "messages": [{"role": "user", "content": "r"}], "max_tokens": 33, "temperature": 0.0}
    list(here.engine.score_options(options(1)))
    assert here.asks[-1].body == {
        "model": "m", "messages": [{"role": "user", "content": "which 0"}], "max_tokens": 1, "temperature": 1.0,
        "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip


def test_equal_calls_are_bought_once_and_seeds_and_settings_tell_calls_apart(desk: Open):
    here = desk(lambda ask: Answer(chat("x")))
    same = [Request(id, (user("q"),), Sampling(), 1) for id in "abc"]
    others = [Request("d", (user("q"),), Sampling(), 2), Request("e", (user("q"),), Sampling(max_new_tokens=9), 1)]
    assert {row.id for row in here.engine.generate([*same, *others])} == set("abcde")
    assert len(here.asks) == 3
    assert (here.engine.spending.bought, here.engine.spending.from_store) == (3, 2)
    greedy = [Request(f"g{n}", (user("q"),), Sampling(temperature=0), n) for n in range(4)]
    assert len(list(here.engine.generate(greedy))) == 4 and len(here.asks) == 4


def test_scores_from_log_probabilities(desk: Open):
    """P(A) = .98 * .8 and P(B) = .98 * .2; the mass is .98."""
    here = desk(judge(lambda ask: 0.8))
    (scores,) = here.engine.score_options(options(1))
    assert scores.logprobs == pytest.approx((log(0.784), log(0.196))) and scores.mass == pytest.approx(0.98)
    assert (scores.source, scores.outcome, scores.prompt_tokens) == ("logprob", "ok", 40)
    able = "gives log-probabilities of up to 20 tokens; takes max_tokens, temperature, seed, system turns"
    assert here.said == [f"desk: m at {here.server.url} {able}"]
    (call,) = here.store.find("o0")
    assert (call.option_logprobs, call.mass, call.owner) == (scores.logprobs, scores.mass, "o0")
    later = desk(like=here)
    assert list(later.engine.score_options(options(1))) == [scores]
    assert len(here.asks) == 1 and len(here.probes) == 1, "the store remembers what the server can do"
    assert later.said == here.said


def test_options_of_which_one_begins_another_are_refused(desk: Open):
    """A tokenizer that splits "10" would have it counted as "1". As votes they are read from the text."""
    scale = [OptionRequest("r", (user("q"),), ("1", "2", "10"))]
    with pytest.raises(ValueError, match="begins another"):
        list(desk().engine.score_options(scale))
    (scores,) = desk(no_logprobs(lambda ask: Answer(chat("Score: 10"))), votes=2).engine.score_options(scale)
    assert max(scores.logprobs) == scores.logprobs[2]


def test_votes_where_the_server_ignores_log_probabilities(desk: Open):
    """200 verdicts at P(A) = .8: the estimate lies within four standard errors, 4 * sqrt(.16 / 200) = .113."""
    here = desk(no_logprobs(judge(lambda ask: 0.8)), votes=200, concurrency=32)
    (scores,) = here.engine.score_options(options(1))
    assert (scores.source, scores.mass) == ("vote", 1.0)
    assert [exp(p) for p in scores.logprobs] == pytest.approx([0.8, 0.2], abs=0.113)
    assert len({ask.body["seed"] for ask in here.asks}) == 200 and {ask.body["temperature"] for ask in here.asks} == {1.0}
    assert scores.spent.attempts == 200
    assert [said for said in here.said if "verdicts" in said] == [
        "desk: without log-probabilities each order is judged by 200 sampled verdicts"
    ]


def test_votes_reuse_what_fewer_votes_bought_and_follow_the_seed(desk: Open):
    here = desk(no_logprobs(judge()), votes=2)
    list(here.engine.score_options(options(3)))
    list(here.engine.score_options(options(3)))
    assert len(here.asks) == 6 and sum("verdicts" in said for said in here.said) == 1
    more = desk(like=here, votes=4)
    assert len(list(more.engine.score_options(options(3)))) == 3
    assert len(here.asks) == 12
    list(more.engine.score_options([OptionRequest("o0", (user("which 0"),), ("A", "B"), seed=99)]))
    assert len(here.asks) == 16, "asked again with another seed (repetition stability) it is drawn anew"


def test_one_vote_is_a_hard_label(desk: Open):
    here = desk(no_logprobs(judge(lambda ask: 1.0)), votes=1)
    (scores,) = here.engine.score_options(options(1))
    assert scores.source == "hard" and scores.logprobs == pytest.approx((log(0.75), log(0.25)))
    assert here.asks[0].body["temperature"] == 0.0 and "seed" not in here.asks[0].body
    assert "one verdict, a hard label" in here.said[-1]


def refusing(**limits):
    """A server that refuses parameters: `limits` maps a name to the greatest value it takes, None: none."""
    good = judge()

    def reply(ask):
        for name, most in limits.items():
            if name == "system" and any(message["role"] == "system" for message in ask.body["messages"]):
                return error(400, "System role not supported")
            if name in ask.body and (most is None or ask.body[name] > most):
                return error(400, f"{name} is not supported here", param=name)
        return good(ask)

    return plain(reply)


@pytest.mark.parametrize(
    ("limits", "sent", "said"),
    [
        ({}, {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}, "up to 20 tokens; takes max_tokens, temperature"),
        ({"top_logprobs": 5}, {"top_logprobs": 5, "logprobs": True}, "up to 5 tokens"),
        (
            {"top_logprobs": None},
            {"top_logprobs": None, "logprobs": None, "max_tokens": 256, "seed": ...},
            "no log-probabilities",
        ),
        ({"logprobs": None}, {"top_logprobs": None, "logprobs": None}, "no log-probabilities"),
        ({"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 1}, "takes max_completion_tokens, temperature"),
        ({"max_tokens": None, "max_completion_tokens": None}, {"max_completion_tokens": None}, "takes temperature"),
        ({"temperature": None, "seed": None}, {"temperature": None, "seed": None}, "takes max_tokens, system turns"),
        ({"system": None}, {"max_tokens": 1}, "takes max_tokens, temperature, seed"),
    ],
)
def test_the_probe_finds_out_what_a_server_takes(desk: Open, limits, sent, said):
    here = desk(refusing(**limits), votes=2)
    rows = list(here.engine.score_options(options(4)))
    assert [row.outcome for row in rows] == ["ok"] * 4
    for ask in here.asks:
        for name, value in sent.items():
            assert (name in ask.body) if value is ... else ask.body.get(name) == value
    assert any(said in line for line in here.said)
    assert len(here.asks) == 4 * (2 if sent.get("logprobs", 1) is None else 1), "no call after the probe meets a refusal"
    later = desk(like=here, votes=2)
    list(later.engine.score_options([OptionRequest("new", (user("which new"),), ("A", "B"))]))
    assert len(here.probes) == len(limits) + 1 + ("top_logprobs" in limits and limits["top_logprobs"] is None)


def test_a_system_turn_goes_into_the_first_user_turn_where_it_must(desk: Open):
    here = desk(refusing(system=None))
    list(here.engine.generate([Request("a", ({"role": "system", "content": "Be kind."}, user("Hello")), Sampling(), 1)]))
    assert here.asks[-1].body["messages"] == [{"role": "user", "content": "Be kind.\n\nHello"}]


@pytest.mark.parametrize(
    "probe",
    [
        chat("", finish="length"),
        chat("A", reasoning_content="hm"),
        chat("<think>Which", finish="length"),
        chat("<think>x</think>A"),
    ],
)
def test_a_model_that_reasons_is_judged_by_votes_with_room(desk: Open, probe):
    """Its first token begins a thought, so its log-probabilities say nothing of the options."""
    body = probe | {
        "choices": [probe["choices"][0] | {"logprobs": chat("A", logprobs=[("<", -0.1), ("A", -3)])["choices"][0]["logprobs"]}]
    }
    here = desk(plain(lambda ask: Answer(body if ask.prompt == PROBED else chat("<think>so B</think>A"))), votes=2)
    (scores,) = here.engine.score_options(options(1))
    assert (scores.source, scores.logprobs[0] > scores.logprobs[1]) == ("vote", True)
    assert {ask.body["max_tokens"] for ask in here.asks} == {2048}
    assert "reasons before it answers, gives no log-probabilities" in here.said[0]
    assert {call.reasoning for call in here.store.find("o0")} == {"so B"}


def test_a_list_of_one_token_is_no_use(desk: Open):
    """As where a server cuts the list off at top_p: P(A) = 1 says nothing of B."""
    here = desk(plain(lambda ask: Answer(chat("A", logprobs=[("A", 0.0)]))), votes=2)
    (scores,) = here.engine.score_options(options(1))
    assert scores.source == "vote"


def test_a_reply_without_the_log_probabilities_that_the_probe_had(desk: Open):
    """Another provider behind the same URL. The row says so, and the next run asks the server anew what it can do."""
    here = desk(lambda ask: Answer(chat("A")))
    (scores,) = here.engine.score_options(options(1))
    assert (scores.outcome, scores.error) == ("unparsed", "the reply came without log-probabilities")
    list(desk(like=here).engine.score_options(options(1)))
    assert len(here.probes) == 2 and len(here.asks) == 2


def test_rows_that_did_not_end_are_asked_again_those_that_did_are_not(desk: Open):
    """The second run asks only the row that gave up; what the first try took stays on its row."""
    state = {"broken": True}

    def reply(ask):
        if ask.prompt == "say 0":
            return error(500) if state["broken"] else Answer(chat("late"))
        return Answer(chat(None, refusal="no")) if ask.prompt == "say 1" else Answer(chat("x"))

    here = desk(reply, max_attempts=3)
    first = {row.id: row for row in here.engine.generate(texts(3))}
    assert [first[f"t{n}"].outcome for n in range(3)] == ["error", "refused", "ok"]
    assert first["t0"].error == "gave up after 3 requests: HTTP 500: no"
    state["broken"] = False
    second = {row.id: row for row in desk(like=here).engine.generate(texts(3))}
    assert [second[f"t{n}"].outcome for n in range(3)] == ["ok", "refused", "ok"]
    assert second["t0"].spent.attempts == 4 and len(here.asks) == 6


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (error(401, "Incorrect API key"), "the server refuses the key (Incorrect API key): check `api_key_env`"),
        (error(429, "over quota", code="insufficient_quota"), "no credit left (over quota): top the account up"),
        (error(404, "no model m"), "no such model or path (no model m): check `model` and `base_url`"),
    ],
)
def test_what_stops_the_run_stops_it_at_once_and_keeps_what_is_in_flight(desk: Open, answer, sentence):
    """Four are in flight when the third fails: the others arrive, are stored and come out; no fifth is sent, none again."""

    def reply(ask):
        return answer if ask.prompt == "say 2" else Answer(chat("x"), delay=1.0)

    here = desk(reply, concurrency=4)
    rows = []
    with pytest.raises(UserError) as stop:
        for row in here.engine.generate(texts(40)):
            rows.append(row.id)
    assert str(stop.value) == f"endpoint desk: {sentence}" and "\n" not in str(stop.value)
    assert sorted(rows) == ["t0", "t1", "t3"] and len(here.asks) == 4
    assert len(here.store.find("t")) == 3
    with pytest.raises(UserError):
        list(here.engine.generate(texts(40)))
    assert len(here.asks) == 4


def test_a_server_that_is_not_there(desk: Open):
    here = desk(base_url="http://127.0.0.1:9/v1", max_attempts=2)
    with pytest.raises(
        UserError, match="endpoint desk: http://127.0.0.1:9/v1 cannot be used: gave up after 2 requests: no connection"
    ):
        list(here.engine.generate(texts(1)))


def test_a_server_that_fails_row_after_row_stops_the_run(desk: Open):
    here = desk(lambda ask: error(500, "out of order"), concurrency=4, max_attempts=2)
    with pytest.raises(
        UserError, match="4 rows in a row failed, the last one with: HTTP 500: out of order; every answer is kept"
    ):
        list(here.engine.generate(texts(100)))
    assert len(here.asks) <= 4 * 2 + 3 * 2


def test_a_prompt_beyond_the_context_is_not_sent(desk: Open):
    here = desk(context_length=100)
    long = Request("long", (user("word " * 200),), Sampling(), 1)
    (row,) = here.engine.generate([long])
    assert (row.outcome, row.error) == ("context", "prompt of about 254 tokens exceeds endpoints.desk.context_length, 100")
    (scores,) = here.engine.score_options([OptionRequest("long", long.messages, ("A", "B"))])
    assert scores.outcome == "context" and here.server.asks == []


def test_closing_the_iterator_cancels_what_is_in_flight_and_keeps_what_is_done(desk: Open):
    here = desk(lambda ask: Answer(chat("x"), delay=0.0 if ask.prompt < "say 3" else 600.0), concurrency=8)
    rows = here.engine.generate(texts(9))
    assert {next(rows).id for _ in range(3)} == {"t0", "t1", "t2"}
    start = time.monotonic()
    rows.close()
    assert time.monotonic() - start < 30
    assert {call.owner for call in here.store.find("t")} == {"t0", "t1", "t2"}
    assert here.store._db.execute("SELECT COUNT(*) FROM leases").fetchone() == (0,)
    assert here.engine._servers.clients[0].gate.in_flight == 0
    assert [row.id for row in here.engine.generate(texts(1))] == ["t0"]


def test_ctrl_c_cancels_what_is_in_flight_and_keeps_what_is_done(tmp_path):
    """A real SIGINT while the consumer waits for rows that never come."""
    code = """if True:
        import sys
        from rlaif_dpo.engines.endpoint import EndpointEngine
        from rlaif_dpo.engines.store import CallStore
        from rlaif_dpo.recipe.schema import Endpoint
        from tests.engines.endpoint.conftest import texts
        engine = EndpointEngine(Endpoint(base_url=sys.argv[1], model="m"), CallStore(sys.argv[2]), lambda said: None, "desk")
        try:
            for row in engine.generate(texts(9)):
                print(row.id, flush=True)
        except KeyboardInterrupt:
            print("stopped", engine._servers.clients[0].gate.in_flight, flush=True)
    """
    reply = probed_well(lambda ask: Answer(chat("x"), delay=0.0 if ask.prompt < "say 3" else 600.0))
    with FaultServer(reply) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "s.sqlite")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert {child.stdout.readline().strip() for _ in range(3)} == {"t0", "t1", "t2"}
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=120)
    assert (out, child.returncode) == ("stopped 0\n", 0)
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        assert db.execute("SELECT COUNT(*) FROM calls").fetchone() == (3,)
        assert db.execute("SELECT COUNT(*) FROM leases").fetchone() == (0,)


def test_two_engines_on_one_store_buy_each_call_once(desk: Open):
    """At the same time, as two runs in two processes would: 60 calls each, 60 replies."""
    here = desk(slow(lambda ask: Answer(chat("x")), 0.05))
    there = desk(like=here)
    rows: dict[str, set[str]] = {}

    def consume(name: str, engine: EndpointEngine) -> None:
        rows[name] = {row.id for row in engine.generate(texts(60))}

    threads = [threading.Thread(target=consume, args=(n, d.engine)) for n, d in (("here", here), ("there", there))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows["here"] == rows["there"] == {f"t{n}" for n in range(60)}
    assert len(here.asks) == 60
    assert here.engine.spending.bought + there.engine.spending.bought == 60


@pytest.mark.parametrize(
    "limits", [{"max_calls": 11}, {"max_tokens": 500}, {"max_usd": 0.0005, "price": Price(input=1, output=1)}]
)
def test_a_budget_ends_softly_and_the_next_run_goes_on(desk: Open, limits):
    """A reply takes 42 tokens; 500 tokens, or $.0005 at $1 a million, have room for 11, the probe's among them, and no reply
    is lost: what the server sent is what came out. The second run, with room, asks only for the rest. (The prompts have
    about the 40 tokens that the server counts.)
    """
    prompts = texts(60, more=" word" * 28)
    here = desk(lambda ask: Answer(chat("x"), delay=0.05), **limits)
    rows = []
    with pytest.raises(BudgetSpent) as end:
        for row in here.engine.generate(prompts):
            rows.append(row)
    (limit,) = limits.keys() - {"price"}
    assert f"endpoints.desk.{limit} = " in str(end.value) and f"raise endpoints.desk.{limit} and run again to go on" in str(
        end.value
    )
    spending = here.engine.spending
    assert len(rows) == spending.bought == len(here.asks) == len(here.store.find("t"))
    assert spending.tokens == 42 * spending.calls <= limits.get("max_tokens", 10**9)
    assert spending.calls == 11
    assert len(list(desk(like=here).engine.generate(prompts))) == 60
    assert len(here.asks) == 60


def test_spending_counts_what_this_run_bought(desk: Open):
    here = desk(lambda ask: Answer(chat("x")), price=Price(input=1, output=10))
    list(here.engine.generate(texts(5)))
    later = desk(like=here, price=Price(input=1, output=10), max_calls=2)
    list(later.engine.generate(texts(7)))
    spending = later.engine.spending
    assert (spending.calls, spending.bought, spending.from_store, spending.outcomes) == (2, 2, 5, {"ok": 7})
    assert spending.usd == pytest.approx(2 * 60e-6), "40 prompt tokens at $1 and 2 at $10 a million are $.00006"
    assert desk().engine.spending.usd is None


KEY = "sk-secret-0123456789"


def test_the_key_is_nowhere(desk: Open, monkeypatch, caplog):
    """A server that echoes the Authorization header in all it says: errors, replies, thoughts. Every log is on."""
    monkeypatch.setenv("DESK_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)

    def echo(ask):
        said = f"you sent {ask.headers['authorization']}"
        if ask.prompt == "say 0":
            return error(400, said)
        if ask.prompt == "say 1":
            return error(500, said)
        if ask.prompt == "say 2":
            return Answer(said)
        if ask.prompt == "say 9":
            return error(401, said)
        return Answer(chat(said, reasoning_content=said))

    here = desk(echo, api_key_env="DESK_KEY", max_attempts=2)
    rows = list(here.engine.generate(texts(4)))
    assert {ask.headers["authorization"] for ask in here.asks} == {f"Bearer {KEY}"}
    assert next(row for row in rows if row.id == "t3").text == "you sent Bearer [key]"
    with pytest.raises(UserError) as stop:
        list(here.engine.generate(texts(10)))
    shown = "".join(traceback.format_exception(stop.value)) + repr(stop.value)
    chain = stop.value
    while chain is not None:
        shown += f"{chain} {chain!r}"
        chain = chain.__context__ or chain.__cause__
    shown += caplog.text + repr(rows) + " ".join(here.said) + json.dumps(list(here.store.export()))
    assert "[key]" in shown and "refuses the key" in shown and "request 1" in caplog.text
    assert KEY not in shown
    here.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert KEY.encode() not in here.store.path.read_bytes()


def test_keys_that_are_missing_or_none(desk: Open, monkeypatch):
    monkeypatch.delenv("DESK_KEY", raising=False)
    with pytest.raises(UserError, match="endpoint desk: the environment variable DESK_KEY is not set: export it"):
        desk(api_key_env="DESK_KEY")
    monkeypatch.setenv("DESK_KEY", "two words")
    with pytest.raises(UserError, match="DESK_KEY holds no key") as refused:
        desk(api_key_env="DESK_KEY")
    assert "two words" not in str(refused.value)


def test_a_server_without_a_key_gets_none_of_the_keys_around(desk: Open, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    here = desk(lambda ask: Answer(chat("x")))
    list(here.engine.generate(texts(1)))
    assert {ask.headers["authorization"] for ask in here.server.asks} == {"Bearer none"}
    assert KEY not in str([ask.headers for ask in here.server.asks])


def test_names(desk: Open):
    engine = desk().engine
    assert (engine.name, engine.template_hash, engine.context_length) == ("desk", "endpoint:m", 32768)
    assert engine.count_tokens([user("x" * 40)]) == 14
