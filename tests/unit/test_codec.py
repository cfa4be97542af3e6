"""Records to bytes and back: bytes captured from asynq, any record there can be, and junk (rows 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings, strategies as st
from msgspec.structs import replace

from aioasynq.errors import MessageDecodeError
from aioasynq.message import (
    GO_ZERO_TIME,
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskMessage,
    WorkerInfo,
)
from aioasynq.proto import codec
from aioasynq.proto.codec import (
    decode_scheduler_entry,
    decode_scheduler_event,
    decode_server,
    decode_task,
    decode_worker,
    encode_scheduler_entry,
    encode_scheduler_event,
    encode_server,
    encode_task,
    encode_worker,
)

SECOND = 10**9


class Codec(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


CODECS: dict[Any, Codec] = {
    TaskMessage: Codec(encode_task, decode_task),
    ServerInfo: Codec(encode_server, decode_server),
    WorkerInfo: Codec(encode_worker, decode_worker),
    SchedulerEntry: Codec(encode_scheduler_entry, decode_scheduler_entry),
    SchedulerEnqueueEvent: Codec(encode_scheduler_event, decode_scheduler_event),
}

V1 = TaskMessage(
    type="email:send",
    payload=b'{"user_id":42}',
    id="11111111-2222-3333-4444-555555555555",
    queue="default",
    retry=25,
    timeout=1800,
)
V3 = TaskMessage(
    type="img:resize",
    payload=b"\x00\x01\x02\xff",
    id="full-1",
    queue="crit",
    retry=3,
    timeout=90,
    deadline=1893456000,
    unique_key="asynq:{crit}:unique:img:resize:0416dab819887333af831f8c765ac2ae",
    retention=86400,
    headers={"trace": "abc", "k": ""},
)
V7 = ServerInfo(
    host="host-a",
    pid=4242,
    server_id="aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    concurrency=10,
    queues={"default": 1},
    status="active",
    start_time=1767225600_123456789,
    active_worker_count=1,
)
LIVE_SERVER = "d14ad89a-d878-4628-8600-e03f741467d2"

# Captured from asynq v0.26.
VECTORS = {
    "V1, a task": (
        V1,
        (
            "0a0a656d61696c3a73656e64120e7b22757365725f6964223a34327d1a2431313131313131312d323232322d333333332d343434342d"
            "353535353535353535353535220764656661756c74281940880e"
        ),
    ),
    "V2, a task that failed": (
        replace(V1, retried=1, error_msg="boom", last_failed_at=1795437947),
        (
            "0a0a656d61696c3a73656e64120e7b22757365725f6964223a34327d1a2431313131313131312d323232322d333333332d343434342d"
            "353535353535353535353535220764656661756c74281930013a04626f6f6d40880e58fbea90d806"
        ),
    ),
    "V3, a task with all options": (
        V3,
        (
            "0a0a696d673a726573697a651204000102ff1a0666756c6c2d312204637269742803405a4880b1ef8607523f6173796e713a7b637269"
            "747d3a756e697175653a696d673a726573697a653a303431366461623831393838373333336166383331663863373635616332616560"
            "80a3057a0c0a05747261636512036162637a050a016b1200"
        ),
    ),
    "V4, a task that completed": (
        replace(V3, completed_at=1795437947),
        (
            "0a0a696d673a726573697a651204000102ff1a0666756c6c2d312204637269742803405a4880b1ef8607523f6173796e713a7b637269"
            "747d3a756e697175653a696d673a726573697a653a303431366461623831393838373333336166383331663863373635616332616560"
            "80a30568fbea90d8067a0c0a05747261636512036162637a050a016b1200"
        ),
    ),
    "V5, a task of a group": (
        TaskMessage(type="t", payload=b"p", id="g1", queue="default", retry=25, timeout=1800, group_key="gg"),
        "0a01741201701a026731220764656661756c74281940880e72026767",
    ),
    "V6, a task with a deadline that timed out": (
        TaskMessage(
            type="sleep",
            id="id-past",
            queue="default",
            retry=25,
            retried=1,
            error_msg="context deadline exceeded",
            deadline=1795434498,
            last_failed_at=1795438098,
        ),
        (
            "0a05736c6565701a0769642d70617374220764656661756c74281930013a19636f6e7465787420646561646c696e6520657863656564"
            "65644882d090d8065892ec90d806"
        ),
    ),
    "V7, a server": (
        V7,
        (
            "0a06686f73742d611092211a2461616161616161612d626262622d636363632d646464642d656565656565656565656565200a2a0b0a"
            "0764656661756c7410013a06616374697665420b0880f2d6ca0610959aef3a4801"
        ),
    ),
    "V8, a live server": (
        ServerInfo(
            host="vm",
            pid=18678,
            server_id=LIVE_SERVER,
            concurrency=10,
            queues={"default": 2, "low": 4},
            status="active",
            start_time=1795438098_484199237,
            active_worker_count=1,
        ),
        (
            "0a02766d10f691011a2464313461643839612d643837382d343632382d383630302d653033663734313436376432200a2a0b0a076465"
            "6661756c7410022a070a036c6f7710043a06616374697665420c0892ec90d80610c596f1e6014801"
        ),
    ),
    "V9, a running task": (
        WorkerInfo(
            host="host-a",
            pid=4242,
            server_id="aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            task_id="task-1",
            task_type="email:send",
            task_payload=b"{}",
            queue="default",
            start_time=1767225601 * SECOND,
            deadline=1767227401 * SECOND,
        ),
        (
            "0a06686f73742d611092211a2461616161616161612d626262622d636363632d646464642d6565656565656565656565652206746173"
            "6b2d312a0a656d61696c3a73656e6432027b7d3a0764656661756c7442060881f2d6ca064a06088980d7ca06"
        ),
    ),
    "V10, a live running task without payload": (
        WorkerInfo(
            host="vm",
            pid=18678,
            server_id=LIVE_SERVER,
            task_id="id-hard",
            task_type="hard",
            queue="default",
            start_time=1795438098_592284574,
            deadline=1795439898_592284484,
        ),
        (
            "0a02766d10f691011a2464313461643839612d643837382d343632382d383630302d653033663734313436376432220769642d686172"
            "642a04686172643a0764656661756c74420c0892ec90d806109e97b69a024a0c089afa90d80610c496b69a02"
        ),
    ),
    "V11, a scheduler entry that never ran": (
        SchedulerEntry(
            id="e-1",
            spec="@every 30s",
            task_type="email:send",
            task_payload=b"{}",
            enqueue_options=['Queue("default")', "MaxRetry(3)"],
            next_enqueue_time=1767225630 * SECOND,
            prev_enqueue_time=GO_ZERO_TIME,
        ),
        (
            "0a03652d31120a406576657279203330731a0a656d61696c3a73656e6422027b7d2a105175657565282264656661756c7422292a0b4d"
            "617852657472792833293206089ef2d6ca063a0b088092b8c398feffffff01"
        ),
    ),
    "V12, a live scheduler entry": (
        SchedulerEntry(
            id="cb355723-cc6a-4a87-bd43-0d422fc7f50c",
            spec="@every 2s",
            task_type="ok",
            task_payload=b"p",
            enqueue_options=['Queue("low")', "Timeout(1m30s)"],
            next_enqueue_time=1795438104 * SECOND,
            prev_enqueue_time=1795438102 * SECOND,
        ),
        (
            "0a2463623335353732332d636336612d346138372d626434332d30643432326663376635306312094065766572792032731a026f6b22"
            "01702a0c517565756528226c6f7722292a0e54696d656f757428316d3330732932060898ec90d8063a060896ec90d806"
        ),
    ),
    "V13, an enqueue event": (
        SchedulerEnqueueEvent(task_id="task-9", enqueue_time=1767225630_000005000),
        "0a067461736b2d391209089ef2d6ca06108827",
    ),
    "V13, a live enqueue event": (
        SchedulerEnqueueEvent(task_id="18fac4cc-6220-4671-ac59-5ba5f96afdbe", enqueue_time=1795438100_001255862),
        "0a2431386661633463632d363232302d343637312d616335392d356261356639366166646265120a0894ec90d80610b6d34c",
    ),
    "V14, an empty scheduler entry": (
        SchedulerEntry(),
        "320b088092b8c398feffffff013a0b088092b8c398feffffff01",
    ),
    "V14, an empty running task": (
        WorkerInfo(),
        "420b088092b8c398feffffff014a0b088092b8c398feffffff01",
    ),
}


@pytest.mark.rows(6, 7)
@pytest.mark.parametrize(("record", "data"), VECTORS.values(), ids=VECTORS)
def test_asynqs_bytes_are_read(record, data):
    assert CODECS[type(record)].decode(bytes.fromhex(data)) == record


@pytest.mark.rows(6, 7)
@pytest.mark.parametrize(("record", "data"), VECTORS.values(), ids=VECTORS)
def test_asynqs_bytes_are_written(record, data):
    written = CODECS[type(record)].encode(record)
    # The entries of a map are in no order, in Go as here.
    assert in_order(written) == in_order(bytes.fromhex(data))
    if len(getattr(record, "headers", ())) < 2 and len(getattr(record, "queues", ())) < 2:
        assert written.hex() == data


def in_order(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a message, whose numbers have to ascend, each with its bytes; those of one number are sorted."""
    found: list[tuple[int, bytes]] = []
    start = 0
    while start < len(data):
        tag, at = varint(data, start)
        length_or_value, at = varint(data, at)
        if tag & 7 == 2:
            at += length_or_value
        found.append((tag >> 3, data[start:at]))
        start = at
    numbers = [number for number, _ in found]
    assert numbers == sorted(numbers)
    return sorted(found)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


# Any record

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(GO_ZERO_TIME, 253402300800 * SECOND - 1)  # to the end of the year 9999, in nanoseconds
SOME_TEXT = st.text(min_size=1)


def tasks(text: st.SearchStrategy[str] = st.text(), names: st.SearchStrategy[str] = SOME_TEXT):  # noqa: B008 - a value
    return st.builds(
        TaskMessage,
        type=text,
        payload=st.none() | st.binary(min_size=1),
        id=names,
        queue=names,
        retry=INT32,
        retried=INT32,
        error_msg=text,
        timeout=INT64,
        deadline=INT64,
        unique_key=text,
        last_failed_at=INT64,
        retention=INT64,
        completed_at=INT64,
        group_key=text,
        headers=st.dictionaries(text, text, max_size=4),
    )


def plain_tasks():
    """As most are enqueued: without what only some tasks have."""
    return st.builds(
        TaskMessage,
        type=st.text(),
        payload=st.none() | st.binary(),
        id=SOME_TEXT,
        queue=SOME_TEXT,
        retry=INT32,
        timeout=INT64,
    )


def records(text: st.SearchStrategy[str] = st.text()):  # noqa: B008 - a value
    """Servers, running tasks, scheduler entries and events."""
    return st.one_of(
        st.builds(
            ServerInfo,
            host=text,
            pid=INT32,
            server_id=text,
            concurrency=INT32,
            queues=st.dictionaries(text, INT32, max_size=4),
            strict_priority=st.booleans(),
            status=text,
            start_time=TIMES,
            active_worker_count=INT32,
        ),
        st.builds(
            WorkerInfo,
            host=text,
            pid=INT32,
            server_id=text,
            task_id=text,
            task_type=text,
            task_payload=st.binary(),
            queue=text,
            start_time=TIMES,
            deadline=TIMES,
        ),
        st.builds(
            SchedulerEntry,
            id=text,
            spec=text,
            task_type=text,
            task_payload=st.binary(),
            enqueue_options=st.lists(text, max_size=4),
            next_enqueue_time=TIMES,
            prev_enqueue_time=TIMES,
        ),
        st.builds(SchedulerEnqueueEvent, task_id=text, enqueue_time=TIMES),
    )


def there_and_back(record):
    encode, decode = CODECS[type(record)]
    return decode(encode(record))


@pytest.mark.rows(6)
@settings(deadline=None)
@given(tasks())
@example(TaskMessage(type="", id="i", queue="q"))
@example(TaskMessage(type="t", payload=None, id="i", queue="q", headers={"": ""}))
def test_any_task_survives_row_6(msg):
    assert there_and_back(msg) == msg


@settings(deadline=None)
@given(plain_tasks())
@example(TaskMessage(type="t" * 128, payload=b"x" * 16_384, id="i" * 128, queue="q" * 128))
@example(TaskMessage(type="t", payload=b"x" * 127, id="i" * 127, queue="q", retry=2**31 - 1, timeout=-1))
def test_a_task_that_is_put_together_of_kept_bytes_is_the_same(msg):
    assert encode_task(msg) == codec._task_bytes(msg)
    codec._before.clear()
    codec._behind.clear()
    assert encode_task(msg) == codec._task_bytes(msg)


def test_kept_bytes_are_bounded(monkeypatch):
    monkeypatch.setattr(codec, "_MAX_ENDS", 3)
    for n in range(10):
        assert decode_task(encode_task(TaskMessage(type=f"t{n}", id="i", queue=f"q{n}"))).type == f"t{n}"
        assert len(codec._before) <= 3
        assert len(codec._behind) <= 3


@pytest.mark.rows(6)
def test_a_payload_of_no_bytes_is_read_as_none_row_6():
    msg = TaskMessage(type="t", payload=b"", id="i", queue="q")
    assert encode_task(msg) == encode_task(replace(msg, payload=None))
    assert there_and_back(msg).payload is None


@pytest.mark.rows(7)
@settings(deadline=None)
@given(records())
@example(ServerInfo())
@example(SchedulerEnqueueEvent(enqueue_time=-1))
def test_any_other_record_survives_row_7(record):
    assert there_and_back(record) == record


SUB_SECOND_TIMES = [0, 1, SECOND - 1, 1767225600_123456789, -1, GO_ZERO_TIME, GO_ZERO_TIME + 1]


@pytest.mark.rows(7)
@pytest.mark.parametrize("time", SUB_SECOND_TIMES)
def test_times_survive_to_the_nanosecond_row_7(time):
    assert there_and_back(SchedulerEnqueueEvent(task_id="i", enqueue_time=time)).enqueue_time == time


LEFT_OUT_TIMES = {
    "a server": (decode_server, ["start_time"]),
    "a running task": (decode_worker, ["start_time", "deadline"]),
    "a scheduler entry": (decode_scheduler_entry, ["next_enqueue_time", "prev_enqueue_time"]),
    "an enqueue event": (decode_scheduler_event, ["enqueue_time"]),
}


@pytest.mark.parametrize(("decode", "names"), LEFT_OUT_TIMES.values(), ids=LEFT_OUT_TIMES)
def test_a_time_that_is_left_out_is_never(decode, names):
    record = decode(b"")
    assert [getattr(record, name) for name in names] == [GO_ZERO_TIME] * len(names)


# Text that is no Unicode

BAD_TEXTS = {
    "a lone surrogate": ("a\ud800b", "a?b"),
    "a byte that Python could not decode": (b"caf\xe9".decode(errors="surrogateescape"), "caf?"),
    "a pair written as two": ("\ud83d\ude00", "??"),
    "among good text": ("Grüße \udfff 日本", "Grüße ? 日本"),
}


@pytest.mark.parametrize(("bad", "good"), BAD_TEXTS.values(), ids=BAD_TEXTS)
@pytest.mark.parametrize("field", ["type", "id", "queue", "error_msg", "unique_key", "group_key"])
def test_bad_text_in_a_task_is_cleaned(field, bad, good):
    msg = replace(V3, **{field: bad})
    assert there_and_back(msg) == replace(V3, **{field: good})
    assert getattr(msg, field) == bad, "the record itself is left alone"


@pytest.mark.parametrize(("bad", "good"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_text_in_headers_is_cleaned(bad, good):
    msg = replace(V3, headers={"k": bad, bad: "v"})
    assert there_and_back(msg) == replace(V3, headers={"k": good, good: "v"})


def test_bad_text_in_other_records_is_cleaned():
    assert there_and_back(replace(V7, host="\udc80", queues={"q\udc80": 1})) == replace(V7, host="?", queues={"q?": 1})
    assert there_and_back(WorkerInfo(task_type="\udc80")) == WorkerInfo(task_type="?")
    assert there_and_back(SchedulerEntry(enqueue_options=["a", "\udc80"])) == SchedulerEntry(enqueue_options=["a", "?"])
    assert there_and_back(SchedulerEnqueueEvent(task_id="\udc80")) == SchedulerEnqueueEvent(task_id="?")


ANY_TEXT = st.text(st.characters(codec=None))


@settings(deadline=None)
@given(tasks(ANY_TEXT, ANY_TEXT.filter(bool)) | records(ANY_TEXT))
def test_no_text_keeps_a_record_from_being_stored(record):
    there_and_back(record)


TOO_LARGE = {
    "retry": 2**31,
    "retried": -(2**31) - 1,
    "timeout": 2**63,
    "deadline": 2**63,
    "retention": -(2**63) - 1,
}


@pytest.mark.parametrize(("field", "number"), TOO_LARGE.items(), ids=TOO_LARGE)
def test_a_number_that_is_too_large_is_refused(field, number):
    with pytest.raises(ValueError, match=str(number)):
        encode_task(replace(V1, **{field: number}))


# Junk

JUNK = {
    "text": b"not a message",
    "a tag and no more": b"\x0a",
    "a text that ends early": b"\x0a\x05ab",
    "a number that ends early": b"\x28\x80",
    "a number that does not end": b"\x28" + b"\xff" * 11,
    "field number 0": b"\x00\x01",
    "a wire type that does not exist": b"\x0f\x01",
    "the end of a group that never began": b"\x0c",
    "a group that does not end": b"\x0b",
    "groups within groups": b"\x0b" * 10_000,
    "a type that is not UTF-8": b"\x0a\x01\xff" + encode_task(V1)[12:],
    "a header that is not UTF-8": encode_task(V1) + bytes.fromhex("7a060a01ff120161"),
    "JSON": b'{"type":"t","id":"i"}',
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07payload\x94.",
}


@pytest.mark.parametrize("data", JUNK.values(), ids=JUNK)
def test_junk_is_no_task(data):
    with pytest.raises(MessageDecodeError, match=f"^{len(data)} bytes are not a task: "):
        decode_task(data)


NO_PLACE = {
    "nothing": (b"", "no queue"),
    "no id": (encode_task(replace(V1, id="")), "no id"),
    "no queue": (encode_task(replace(V1, queue="")), "no queue"),
    "a field we do not know": (b"\x80\x7d\x01", "no queue"),
    "a server": (encode_server(ServerInfo(host="h")), "no queue"),
}


@pytest.mark.parametrize(("data", "why"), NO_PLACE.values(), ids=NO_PLACE)
def test_a_task_without_a_place_is_none(data, why):
    with pytest.raises(MessageDecodeError, match=f"{why}$"):
        decode_task(data)


OTHERS = {"ServerInfo": decode_server, "WorkerInfo": decode_worker, "SchedulerEntry": decode_scheduler_entry}


@pytest.mark.parametrize(("name", "decode"), OTHERS.items(), ids=OTHERS)
def test_junk_is_no_other_record(name, decode):
    with pytest.raises(MessageDecodeError, match=re.escape(f"13 bytes are not a {name}: ")):
        decode(b"not a message")


def test_fields_we_do_not_know_are_passed_over():
    assert decode_task(encode_task(V1) + b"\x80\x7d\x01") == V1


@st.composite
def damaged(draw):
    """The bytes of a record with some cut off, changed or put in."""
    record = draw(tasks() | records())
    data = bytearray(CODECS[type(record)].encode(record))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(deadline=None, max_examples=300)
@given(st.binary() | damaged())
def test_junk_raises_nothing_but_message_decode_error(data):
    for record, (_, decode) in CODECS.items():
        try:
            found = decode(data)
        except MessageDecodeError:
            continue
        assert type(found) is record
        if record is TaskMessage:
            assert there_and_back(found) == found
