"""What is fed with anything: bytes from Redis, and what users write. A target is a hypothesis test without settings."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import random
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import assume, given, strategies as st
from msgspec.structs import fields

from aioasynq import keys
from aioasynq.cli.main import main
from aioasynq.compose import compose
from aioasynq.cronspec import parse
from aioasynq.errors import MessageDecodeError
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry, ServerInfo, TaskMessage, WorkerInfo
from aioasynq.options import Options
from aioasynq.proto import asynq_pb2, codec
from aioasynq.queues import draw, in_priority_order, normalise, weighted_order
from aioasynq.rdb.connection import open_link
from aioasynq.server.config import Config
from aioasynq.task import Task

MARK = "MaRkEd5eCrEt"
NOW = 1_795_437_947.25

# ── messages ──

DECODERS = (
    codec.decode_task,
    codec.decode_server,
    codec.decode_worker,
    codec.decode_scheduler_entry,
    codec.decode_scheduler_event,
)
ENCODERS: dict[type, Any] = {
    TaskMessage: (codec.encode_task, codec.decode_task),
    ServerInfo: (codec.encode_server, codec.decode_server),
    WorkerInfo: (codec.encode_worker, codec.decode_worker),
    SchedulerEntry: (codec.encode_scheduler_entry, codec.decode_scheduler_entry),
    SchedulerEnqueueEvent: (codec.encode_scheduler_event, codec.decode_scheduler_event),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAME = TEXT.filter(bool)
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
TIME = st.integers(-62135596800 * 10**9, 253402300799 * 10**9)  # nanoseconds: what a Timestamp may say

TASKS = st.builds(
    TaskMessage,
    type=TEXT,
    payload=st.none() | st.binary(min_size=1),
    id=NAME,
    queue=NAME,
    retry=INT32,
    retried=INT32,
    error_msg=TEXT,
    timeout=INT64,
    deadline=INT64,
    unique_key=TEXT,
    last_failed_at=INT64,
    retention=INT64,
    completed_at=INT64,
    group_key=TEXT,
    headers=st.dictionaries(TEXT, TEXT),
)
RECORDS = st.one_of(
    TASKS,
    st.builds(
        ServerInfo,
        host=TEXT,
        pid=INT32,
        server_id=TEXT,
        concurrency=INT32,
        queues=st.dictionaries(TEXT, INT32),
        strict_priority=st.booleans(),
        status=TEXT,
        start_time=TIME,
        active_worker_count=INT32,
    ),
    st.builds(WorkerInfo, host=TEXT, pid=INT32, task_id=TEXT, task_payload=st.binary(), start_time=TIME, deadline=TIME),
    st.builds(SchedulerEntry, id=TEXT, spec=TEXT, enqueue_options=st.lists(TEXT), prev_enqueue_time=TIME),
    st.builds(SchedulerEnqueueEvent, task_id=TEXT, enqueue_time=TIME),
)


@st.composite
def damaged(draw_: st.DrawFn) -> bytes:
    """A message of which a few bytes were changed, lost, or added."""
    record = draw_(RECORDS)
    data = bytearray(ENCODERS[type(record)][0](record))
    for _ in range(draw_(st.integers(1, 4))):
        at = draw_(st.integers(0, len(data)))
        match draw_(st.sampled_from(["change", "cut", "add", "end"])):
            case "change" if at < len(data):
                data[at] = draw_(st.integers(0, 255))
            case "cut":
                del data[at : at + draw_(st.integers(1, 8))]
            case "add":
                data[at:at] = draw_(st.binary(max_size=8))
            case _:
                del data[at:]
    return bytes(data)


def _size(value: object) -> int:
    match value:
        case str() | bytes():
            return len(value)
        case dict():
            return sum(_size(key) + _size(item) for key, item in value.items())
        case list():
            return sum(map(_size, value))
        case _:
            return 0


@given(data=st.binary(max_size=4096) | damaged())
def any_bytes_are_a_record_or_no_message(data: bytes) -> None:
    """And what came of them is no larger than they are."""
    for decode in DECODERS:
        try:
            record: Any = decode(data)
        except MessageDecodeError:
            continue
        assert sum(_size(getattr(record, field.name)) for field in fields(record)) <= len(data)


@given(record=RECORDS)
def what_is_encoded_is_decoded(record: Any) -> None:
    encode, decode = ENCODERS[type(record)]
    assert decode(encode(record)) == record


@given(data=st.binary(max_size=1024) | damaged())
def a_task_is_what_protobuf_says(data: bytes) -> None:
    """The quick reader against the generated class."""
    plain: Any = None
    with contextlib.suppress(DecodeError, UnicodeDecodeError):
        plain = asynq_pb2.TaskMessage.FromString(data)
    try:
        msg = codec.decode_task(data)
    except MessageDecodeError:
        assert plain is None or not (plain.id and plain.queue)
        return
    for field in fields(msg):
        value = getattr(plain, field.name)
        value = dict(value) if field.name == "headers" else value
        assert getattr(msg, field.name) == (value or None if field.name == "payload" else value)


@given(msg=TASKS)
def a_task_is_written_as_protobuf_does(msg: TaskMessage) -> None:
    """The quick writer against the generated class."""
    values = {field.name: getattr(msg, field.name) for field in fields(msg) if getattr(msg, field.name) is not None}
    assert asynq_pb2.TaskMessage.FromString(codec.encode_task(msg)) == asynq_pb2.TaskMessage(**values)


# ── URLs ──

PIECES = st.one_of(
    st.sampled_from(["redis", "rediss", "unix", "redis-cluster", "http", "0", "6379", "127.0.0.1", "host", "::1"]),
    st.sampled_from(["://", ":", "/", "//", "@", "?", "#", "&", ";", "=", "[", "]", ",", "%2F", "%zz", " ", "\n"]),
    st.sampled_from(["password=", "Password=", "passw%6Frd=", "username=", "db=", "socket_timeout=", "protocol=3"]),
    st.sampled_from(["ssl_ca_certs=", "max_connections=", "\u2100", "\udcff"]),
)
URLS = st.one_of(
    st.text(),
    st.lists(PIECES | st.text(max_size=3), max_size=14).map("".join),
    st.builds(
        "{0}://{1}{2}{3}{4}".format,
        st.sampled_from(
            ["redis", "rediss", "unix", "redis-cluster", "rediss-cluster", "redis-sentinel", "redis-socket", "REDIS"]
        ),
        st.sampled_from(["", "user:pw@", ":pw@", "user@", "@", "::@"]),
        st.sampled_from(["", "host", "host:1", "[::1]:1", "a:1,b:2", "h:99999", "h:x", "/a/b"]),
        st.sampled_from(["", "/", "/0", "/1/", "/x", "/0/0", "/-1", "/99999999999999999999", "/s/1", "?master=s"]),
        st.lists(PIECES, max_size=4).map("".join),
    ),
)


@given(url=URLS)
def any_url_is_opened_or_refused(url: str) -> None:
    """Refused with a ValueError that shows no password."""

    async def attempt() -> None:
        link = open_link(url)
        try:
            assert link.address.isprintable() or not url.isprintable()
            twin = link.again()
            await twin.aclose()
        finally:
            await link.client.aclose()

    with contextlib.suppress(ValueError):
        asyncio.run(attempt())


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis-cluster", "redis-sentinel", "http", "REDIS", "redis+x"]),
    front=st.text(st.characters(exclude_characters="@"), max_size=5),
    back=st.text(max_size=5),
    host=st.sampled_from(["host:1", "host:port", "[::1]:1", "a:1,b:2", "", "/a/b", "h:1/x", "h:1/0?db=x", "h:1#x"]),
)
def a_password_before_the_host_is_not_shown(scheme: str, front: str, back: str, host: str) -> None:
    url = f"{scheme}://user:{front}{MARK}{back}@{host}"
    shown = ""
    try:
        shown = open_link(url).address
    except ValueError as exc:
        shown = f"{exc!s} {exc!r}"
    assert MARK not in shown


# ── options ──

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.integers(-(10**400), 10**400)
)
DURATIONS = NUMBERS | st.timedeltas()
MOMENTS = (
    NUMBERS
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.datetimes(min_value=datetime(2026, 1, 1), timezones=st.timezones())  # noqa: DTZ001 - hypothesis asks for that
)
ANY_TEXT = st.text() | st.none() | st.binary(max_size=3) | st.sampled_from(["{", " ", "\t", "\udcff", "default"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_retry": NUMBERS,
        "queue": ANY_TEXT,
        "task_id": ANY_TEXT,
        "timeout": DURATIONS,
        "deadline": MOMENTS,
        "unique": DURATIONS,
        "process_at": MOMENTS,
        "process_in": DURATIONS,
        "retention": DURATIONS,
        "group": ANY_TEXT,
        "headers": st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3) | ANY_TEXT,
        "nonsense": NUMBERS,
    },
)


@given(options=OPTIONS, payload=st.none() | st.binary() | st.text(), type_=ANY_TEXT)
def any_options_are_refused_or_can_be_sent(options: dict[str, Any], payload: Any, type_: Any) -> None:
    """What passes the checks fits into a message, and into the words of the call that stores it."""
    try:
        composed = compose(Task(type_, payload), Options.of(**options), NOW)
    except (ValueError, TypeError):
        return
    msg = composed.msg
    assert codec.decode_task(codec.encode_task(msg)) in (msg, TaskMessage(**_with(msg, payload=msg.payload or None)))
    assert (composed.unique_ttl > 0) == bool(msg.unique_key)
    if composed.when:
        assert float(composed.when.removeprefix("+")) > 0
    keys.task(msg.queue, msg.id).encode()


def _with(msg: TaskMessage, **changes: Any) -> dict[str, Any]:
    return {field.name: getattr(msg, field.name) for field in fields(msg)} | changes


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "concurrency": NUMBERS,
            "queues": st.dictionaries(ANY_TEXT, NUMBERS, max_size=3) | st.lists(ANY_TEXT, max_size=3) | ANY_TEXT,
            "strict_priority": NUMBERS,
            "lease": DURATIONS,
            "shutdown_timeout": DURATIONS,
            "cleanup_interval": DURATIONS,
            "archive_days": DURATIONS,
            "max_archive": NUMBERS,
        },
    )
)
def any_config_is_refused_or_sound(options: dict[str, Any]) -> None:
    try:
        config = Config(**options)
    except (ValueError, TypeError):
        return
    assert config.beat > 0
    assert timedelta(seconds=config.lease) > timedelta(0) <= timedelta(seconds=config.shutdown_timeout)
    codec.encode_server(ServerInfo(concurrency=config.concurrency, queues=dict(config.queues)))
    assert set(config.weights) == set(config.queues)
    assert int(config.archive_days * 86400) >= 0


# ── queues ──


@given(
    queues=st.dictionaries(TEXT, NUMBERS | st.integers(1, 9), max_size=5) | st.lists(TEXT, max_size=5) | TEXT,
    places=st.integers(-1, 300),
    seed=st.integers(),
)
def any_weights_are_refused_or_drawn_from(queues: Any, places: int, seed: int) -> None:
    try:
        weights = normalise(queues)
    except (ValueError, TypeError):
        return
    chance = random.Random(seed)
    assert sorted(in_priority_order(weights)) == sorted(weighted_order(weights, chance)) == sorted(weights)
    drawn = draw(weights, places, chance)
    assert sum(drawn.values()) == max(0, places)
    assert set(drawn) <= set(weights)


# ── the command line ──

OPTION_NAMES = ["--url", "--queues", "--strict", "--concurrency", "--log-level", "--shutdown-timeout", "--processes"]
STRANGE_NAMES = ["--max-memory", "--max-tasks", "--help", "-h", "--version", "--", "-", "--no-such", "--url=", "-x"]
VALUES = ["1", "0", "-1", "1e9", "nan", "inf", "500MB", "a:1,b", "a=1", "a:1,a:2", ",", "debug", "redis://h:1/0", "{"]
WORDS = st.lists(
    st.sampled_from(OPTION_NAMES + STRANGE_NAMES)
    | st.sampled_from(VALUES)
    | st.text(max_size=4).filter(lambda word: ":" not in word)  # no target that could be run
    | st.sampled_from(["worker", "::", "tasks.py:mux", "./tasks:mux", ".tasks:mux", "tasks:"]),
    max_size=8,
)


@given(words=WORDS)
def any_words_end_with_a_text_or_help(words: list[str]) -> None:
    """Exit code 0 or 2, and no trace of an error; nothing is started, for no word names a module and what is in it."""
    assume("--parent" not in words)
    argv, said = sys.argv, io.StringIO()
    code: object = None
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        sys.argv = ["aioasynq", *(["worker", "::"] if words[:1] != ["worker"] else []), *words]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                main()
            except SystemExit as exc:
                code = exc.code
    finally:
        sys.argv = argv
        root.handlers[:] = handlers
        root.setLevel(level)
    assert code in {0, 2}
    assert said.getvalue().strip()
    assert "Traceback" not in said.getvalue()


SPEC_PIECES = st.sampled_from(
    ["*", "?", "/", "-", ",", " ", "\t", "\xa0", "0", "5", "59", "60", "31", "jan", "MON", "@every ", "@daily", "1h"]
) | st.sampled_from(["1.5s", "TZ=", "CRON_TZ=", "UTC", "Europe/Berlin", "Local", "../", "\udcff", "\0", "+", "_", "L"])
SPECS = (
    st.text()
    | st.lists(SPEC_PIECES, max_size=16).map("".join)
    | st.lists(st.lists(SPEC_PIECES, min_size=1, max_size=3).map("".join), min_size=5, max_size=6).map(" ".join)
)


@given(spec=SPECS, after=st.integers(0, 4 * 10**9), seconds=st.booleans())
def any_spec_is_refused_or_comes_later(spec: str, after: int, seconds: bool) -> None:
    """Refused with a ValueError that names the argument."""
    try:
        schedule = parse(spec, seconds=seconds)
    except ValueError as exc:
        assert "spec" in str(exc)  # noqa: PT017 - each is refused in words of its own
        return
    moment = schedule.next(after)
    assert moment is None or moment > after


TARGETS = (
    any_bytes_are_a_record_or_no_message,
    what_is_encoded_is_decoded,
    a_task_is_what_protobuf_says,
    a_task_is_written_as_protobuf_does,
    any_url_is_opened_or_refused,
    a_password_before_the_host_is_not_shown,
    any_options_are_refused_or_can_be_sent,
    any_config_is_refused_or_sound,
    any_weights_are_refused_or_drawn_from,
    any_words_end_with_a_text_or_help,
    any_spec_is_refused_or_comes_later,
)
