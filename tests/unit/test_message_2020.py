"""Messages of asynq in 2020, byte by byte: what becomes of each, and what is said of those that cannot be read."""

from __future__ import annotations

import re

import pytest

from aioasynq import keys
from aioasynq.rdb.message_2020 import read_message
from tests.support.layout_2020 import old, today

GOOD = {
    "of v0.1": (old("a", early=True), today("a")),
    "of v0.7": (old("a"), today("a")),
    "of July 2020, with numbers": (
        old("a", Timeout=30, Deadline=1600000000),
        today("a", timeout=30, deadline=1600000000),
    ),
    "a type, a queue, retries, an error": (
        old("a", "low", Type="mail:<send>", Retry=3, Retried=2, ErrorMsg="boom & \u2028 ü"),
        today("a", "low", type="mail:<send>", retry=3, retried=2, error_msg="boom & \u2028 ü"),
    ),
    "a queue in large letters": (old("a", "LOW"), today("a", "low")),
    "no payload": (old("a", payload=b"null"), today("a", payload=b"null")),
    "an empty payload": (old("a", payload=b"{}"), today("a", payload=b"{}")),
    "large numbers, order, spaces, escapes of a payload": (
        old("a", payload=b'{"z":12345678901234567890123,"a":1.0e2, "f":0.10,"\\u003c":"\\u0026","z":null}'),
        today("a", payload=b'{"z":12345678901234567890123,"a":1.0e2, "f":0.10,"\\u003c":"\\u0026","z":null}'),
    ),
    "a timeout": (old("a", Timeout="1h2m3.5s"), today("a", timeout=3724)),
    "a short timeout is no none": (old("a", Timeout="1ms"), today("a", timeout=1)),
    "a timeout in micros": (old("a", Timeout="2000000µs"), today("a", timeout=2)),
    "a deadline": (old("a", Deadline="2020-02-29T12:00:00Z"), today("a", timeout=0, deadline=1582977600)),
    "a deadline in a zone": (
        old("a", Deadline="2020-02-29T12:00:00+09:00"),
        today("a", timeout=0, deadline=1582945200),
    ),
    "a deadline long past is no none": (old("a", Deadline="1965-01-01T00:00:00Z"), today("a", timeout=0, deadline=1)),
    "both": (
        old("a", Timeout="30s", Deadline="2020-02-29T12:00:00Z"),
        today("a", timeout=30, deadline=1582977600),
    ),
    "unique": (
        old("a", UniqueKey="t:n=1:default"),
        today("a", unique_key=keys.unique("default", "t", b'{"n":1}')),
    ),
}


@pytest.mark.parametrize(("data", "msg"), GOOD.values(), ids=GOOD)
def test_a_message(data, msg):
    assert read_message(data, None, 1800)[0] == msg


def test_the_queue_of_a_list_counts():
    assert read_message(old("a", "other"), "Low", 1800)[0] == today("a", "Low")
    assert read_message(old("a", ""), "low", 1800)[0] == today("a", "low")


def test_the_lock_and_the_timeout():
    msg, lock = read_message(old("a", UniqueKey="t:n=1:default"), None, 7)
    assert (msg.timeout, lock) == (7, "t:n=1:default")


BAD = {
    "nothing": (b"", "Input data was truncated"),
    "no JSON": (b"\x00\xff", "JSON is malformed"),
    "half of one": (old("a")[:40], "Input data was truncated"),
    "two": (old("a") * 2, "trailing characters"),
    "a list": (b"[]", "Expected `object`, got `array`"),
    "no id": (b'{"Type":"t"}', "missing required field `ID`"),
    "an empty id": (old(" "), "ID must contain one or more characters that are not blank, got ' '"),
    "an id that is no text": (old("a").replace(b'"a"', b"7"), "Expected `str`, got `int` - at `$.ID`"),
    "an id that is no UTF-8": (old("a").replace(b'"a"', b'"\xff"'), "can't decode byte 0xff"),
    "no type": (b'{"ID":"a"}', "missing required field `Type`"),
    "a queue with braces": (old("a", "{b}"), "queue must not contain braces, got '{b}'"),
    "no queue": (old("a", ""), "queue must contain one or more characters that are not blank, got ''"),
    "a payload that is a list": (old("a", payload=b"[1]"), "Payload must be an object or null"),
    "a payload that is no JSON": (old("a", payload=b'{"a":tru}'), "JSON is malformed"),
    "a payload that is too deep": (old("a", payload=b'{"a":' * 99_999 + b"1" + b"}" * 99_999), "recursion"),
    "retries that are no number": (old("a", Retry="x"), "Expected `int`, got `str` - at `$.Retry`"),
    "too many retries": (old("a", Retry=2**31), "Expected `int` <= 2147483647 - at `$.Retry`"),
    "negative retries": (old("a", Retried=-1), "Expected `int` >= 0 - at `$.Retried`"),
    "a timeout that is none": (old("a", Timeout="soon"), "Timeout must look like 1h2m3.5s, got 'soon'"),
    "a negative timeout": (old("a", Timeout="-1s"), "Timeout must look like 1h2m3.5s, got '-1s'"),
    "an endless timeout": (old("a", Timeout="9" * 400 + "s"), "Timeout must be 0 or more seconds"),
    "a deadline that is none": (old("a", Deadline="now"), "Deadline must look like 2020-02-29T12:00:00Z, got 'now'"),
    "a day that there was not": (old("a", Deadline="2021-02-29T12:00:00Z"), "Deadline must look like"),
    "a negative deadline": (old("a", Deadline=-1), "Deadline must be unix seconds, got -1"),
    "a field of another asynq": (old("a", Retention=5), "unknown field `Retention`"),
}


@pytest.mark.parametrize(("data", "why"), BAD.values(), ids=BAD)
def test_what_is_no_message(data, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        read_message(data, None, 1800)
