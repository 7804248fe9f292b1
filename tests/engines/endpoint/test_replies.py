"""Each surprising reply ends as its table says, by a real server; then the classes of errors, one by one."""

import re
import threading
import time
from email.utils import formatdate

import pytest

from rlaif_dpo.engines.endpoint.replies import Fault, read_error, split_thinking
from tests.engines.endpoint.conftest import Open, options, texts
from tests.fault_server import FAULTS, Answer, chat, error, judge, spoil


def choice(changes) -> Answer:
    """A good reply whose choice is changed."""
    body = chat("x")
    return Answer(body | {"choices": [body["choices"][0] | changes]})


@pytest.mark.parametrize("fault", FAULTS)
def test_each_of_the_twelve_faults(desk: Open, fault: str):
    """The first request of the row gets the fault, the later ones a good answer."""

    def reply(ask):
        good = Answer(chat("hello"))
        return spoil(good, fault) if ask.asked_before == 0 else good

    here = desk(reply, timeout_s=0.5)
    (row,) = here.engine.generate(texts(1))
    if fault == "content filter":
        assert (row.outcome, row.text, row.finish_reason) == ("filtered", "", "error")
        assert "content filter" in row.error
    else:
        assert (row.outcome, row.text, row.error) == ("ok", "hello", None)
    assert row.spent.attempts == len(here.asks) == (1 if fault in ("no usage", "content filter") else 2)
    assert row.spent.usage.estimated == (fault == "no usage")
    if fault == "no usage":
        assert (row.prompt_tokens, row.completion_tokens) == (5, 2), "5 characters of prompt and a turn; 5 of the reply"
    if fault == "empty with length":
        assert [ask.body["max_tokens"] for ask in here.asks] == [64, 128]
        assert row.spent.usage.prompt == 80, "both requests were paid"
    (call,) = here.store.find("t0")
    assert (call.outcome, call.spent) == (row.outcome, row.spent)


def test_a_reply_that_stays_empty(desk: Open):
    here = desk(lambda ask: Answer(chat("", finish="length")))
    (row,) = here.engine.generate(texts(1))
    assert (row.outcome, row.error) == ("empty", "empty reply: the room for the answer ran out")
    assert len(here.asks) == 2
    (row,) = desk(lambda ask: Answer(chat(None))).engine.generate(texts(1))
    assert (row.outcome, row.error) == ("empty", "empty reply: the model said nothing")


@pytest.mark.parametrize(
    ("body", "text", "reasoning", "finish"),
    [
        (chat("hi", finish="eos_token"), "hi", None, "stop"),
        (chat("hi", finish=None), "hi", None, "stop"),
        (chat("hi", finish="max_tokens"), "hi", None, "length"),
        (chat("hi", reasoning_content="hm"), "hi", "hm", "stop"),
        (chat("hi", reasoning="hm"), "hi", "hm", "stop"),
        (chat("<think>hm</think>\n\nhi"), "hi", "hm", "stop"),
        (chat("hm</think>hi"), "hi", "hm", "stop"),
        (chat([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]), "hi", None, "stop"),
        (chat("hi") | {"usage": None}, "hi", None, "stop"),
    ],
)
def test_odd_replies_that_are_good(desk: Open, body, text, reasoning, finish):
    here = desk(lambda ask: Answer(body))
    (row,) = here.engine.generate(texts(1))
    assert (row.text, row.reasoning, row.finish_reason, row.outcome) == (text, reasoning, finish, "ok")
    assert len(here.asks) == 1


@pytest.mark.parametrize(
    ("answer", "outcome", "attempts"),
    [
        (Answer(chat(None, refusal="I can't")), "refused", 1),
        (Answer(chat("<think>and on and on", finish="length")), "empty", 2),
        (choice({"content_filter_results": {"hate": {"filtered": True}}}), "filtered", 1),
        (error(400, "the context length is 4096 tokens; reduce max_tokens", code="context_length_exceeded"), "context", 1),
        (error(400, "'max_tokens' is too large: this model's maximum context length is 4096", code=400), "context", 1),
        (error(413, "too large"), "context", 1),
        (error(400, "flagged", code="content_policy_violation"), "filtered", 1),
        (error(403, "Your input was flagged by moderation"), "filtered", 1),
        (error(400, "messages must alternate"), "error", 1),
        (error(500, "boom"), "error", 3),
        (Answer({"error": {"code": 429, "message": "slow"}}), "error", 3),
        (choice({"finish_reason": "error", "error": {"code": 502, "message": "died"}}), "error", 3),
        (Answer("[1, 2]"), "error", 3),
        (Answer('"text"'), "error", 3),
        (Answer("null"), "error", 3),
        (Answer({"choices": ["x"]}), "error", 3),
        (Answer({"choices": [{"message": None}]}), "error", 3),
    ],
)  # fmt: skip
def test_rows_that_end_badly_and_leave_the_others_alone(desk: Open, answer, outcome, attempts):
    here = desk(lambda ask: answer if ask.prompt == "say 1" else Answer(chat("fine")), max_attempts=3)
    rows = {row.id: row for row in here.engine.generate(texts(3))}
    assert rows["t1"].outcome == outcome and rows["t1"].error and rows["t1"].text == ""
    assert rows["t1"].spent.attempts == sum(ask.prompt == "say 1" for ask in here.asks) == attempts
    assert [rows[id].text for id in ("t0", "t2")] == ["fine", "fine"]
    assert here.engine.spending.outcomes == {"ok": 2, outcome: 1}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"message": "Incorrect API key"}, "stop"),
        (403, {"message": "country not supported"}, "stop"),
        (402, {"message": "no credit"}, "stop"),
        (404, {"message": "The model `m` does not exist"}, "stop"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "stop"),
        (429, {"message": "too many tokens per minute"}, "rate"),
        (503, "overloaded", "rate"),
        (529, {"message": "overloaded"}, "rate"),
        (408, {}, "transient"),
        (409, {}, "transient"),
        (502, "<html>", "transient"),
        (400, {"message": "We could not parse the JSON body of your request."}, "transient"),
    ],
)
def test_classes_of_errors(status, body, kind):
    with pytest.raises(Fault) as fault:
        read_error(status, body)
    assert fault.value.kind == kind


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"message": "Unsupported value", "param": "temperature"}, "temperature"),
        ({"message": "'max_tokens' is unsupported. Use 'max_completion_tokens'.", "param": "max_tokens"}, "max_tokens"),
        ({"message": "logprobs are not supported"}, "logprobs"),
        ({"message": "Requested sample top_logprobs of 20, more than 5"}, "top_logprobs"),
        ({"message": "System role not supported"}, "system"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted", "input": {"temperature": 1}}]}, "seed"),
    ],
)  # fmt: skip
def test_parameters_that_a_server_names(body, parameter):
    with pytest.raises(Fault) as fault:
        read_error(400, body)
    assert (fault.value.kind, fault.value.parameter) == ("parameter", parameter)


def test_a_parameter_that_a_server_stumbles_over():
    """llama.cpp's server answers 500 where it was started without logits for every token; other 500s are tried again."""
    for message, kind in {
        "logprobs is not supported for models created with logits_all=False": "parameter",
        "failed at temperature 1": "transient",
        "this is not supported": "transient",
    }.items():
        with pytest.raises(Fault) as fault:
            read_error(500, {"message": message, "type": "internal_server_error", "param": None, "code": None})
        assert fault.value.kind == kind


def test_the_words_of_a_prompt_are_no_parameter():
    detail = [{"loc": ["body", "messages"], "msg": "bad", "input": "her temperature is 39, seed 1"}]
    assert read_error(422, {"detail": detail}).outcome == "error"


def test_thoughts_are_split_off():
    """(content, answer, thought)"""
    for content, answer, thought in [
        ("plain", "plain", None),
        ("<think></think>a", "a", None),
        ("<think>x</think> a <think>y", "a", "x"),
        ("<think>x", "", "x"),
        ("<think>x</think>y</think>a", "a", "x</think>y"),
    ]:
        assert split_thinking(content) == (answer, thought)


@pytest.mark.parametrize("header", ["Retry-After", "Retry-After as a date", "retry-after-ms"])
def test_a_long_retry_after_is_honoured(desk: Open, header: str):
    """300 s, beyond the SDK's cap of 120: nothing is sent meanwhile, by any worker, and the wait is said."""

    def reply(ask):
        values = {"Retry-After": "300", "retry-after-ms": "300000"}
        return Answer(
            error(429).body, 429, {header.split(" ")[0]: values.get(header, formatdate(time.time() + 300, usegmt=True))}
        )

    here = desk(reply, concurrency=2)

    def end_once_it_waits() -> None:
        while not any("pause" in said for said in here.said):
            time.sleep(0.05)
        time.sleep(1)
        here.engine._background._started().call_soon_threadsafe(here.engine._servers.stop, ValueError("end"))

    threading.Thread(target=end_once_it_waits).start()
    with pytest.raises(ValueError, match="end"):
        list(here.engine.generate(texts(8)))
    assert len(here.asks) <= 2
    assert re.fullmatch(r"desk: the server asks for a pause of (2\d\d|300) s", here.said[-1])


def test_the_row_is_done_after_the_wait(desk: Open):
    reply = judge()

    def once(ask):
        return Answer(error(429).body, 429, {"Retry-After": "1"}) if ask.asked_before == 0 else reply(ask)

    here = desk(once, concurrency=1)
    start = time.monotonic()
    (row,) = here.engine.score_options(options(1))
    assert row.outcome == "ok" and time.monotonic() - start >= 1
