"""Task: made by users, got by handlers. TaskInfo's defaults."""

from __future__ import annotations

import pytest

from aioasynq.options import EMPTY, Options
from aioasynq.task import Task, TaskInfo, TaskState

PAYLOADS = {
    "none": (None, None, b""),
    "empty": (b"", b"", b""),
    "bytes": (b"\x00\xff", b"\x00\xff", b"\x00\xff"),
    "bytearray": (bytearray(b"ab"), b"ab", b"ab"),
    "memoryview": (memoryview(b"abc")[1:], b"bc", b"bc"),
    "text": ("größe", "größe".encode(), "größe".encode()),
    "empty text": ("", b"", b""),
}


@pytest.mark.parametrize(("given", "raw", "payload"), PAYLOADS.values(), ids=PAYLOADS)
def test_payload(given, raw, payload):
    task = Task("t", given)
    assert (task.raw_payload, task.payload) == (raw, payload)
    assert type(task.payload) is bytes


def test_a_payload_does_not_change_with_what_it_was_made_of():
    buffer = bytearray(b"ab")
    task = Task("t", buffer)
    buffer[0] = 0
    assert task.payload == b"ab"


@pytest.mark.parametrize("payload", [{"user_id": 1}, 5, ["a"], True, Ellipsis], ids=repr)
def test_other_payloads_are_refused(payload):
    with pytest.raises(TypeError, match=r"^payload must be bytes, bytearray, memoryview or str, got "):
        Task("t", payload)


@pytest.mark.parametrize(("payload", "end"), [({"user_id": 1}, "1}: json.dumps makes text of it$"), (5, "got 5$")])
def test_an_object_is_no_payload_and_what_makes_one_is_named(payload, end):
    with pytest.raises(TypeError, match=end):
        Task("t", payload)


def test_a_large_wrong_payload_is_shown_in_short():
    with pytest.raises(TypeError) as refused:
        Task("t", list(range(100_000)))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert len(str(refused.value)) < 200


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(
        ValueError, match=r"^payload must be bytes or valid Unicode text: .*surrogates not allowed"
    ) as refused:
        Task("t", "\ud800")
    assert type(refused.value) is ValueError


@pytest.mark.rows(96)
@pytest.mark.parametrize("type_", ["", "  ", None], ids=repr)
def test_a_blank_type_is_refused(type_):
    """Row 96."""
    with pytest.raises(ValueError, match=r"^task type must "):
        Task(type_)


def test_a_new_task_has_the_defaults():
    """Rows 93 and 99."""
    task = Task("t")
    assert (task.id, task.queue, task.retried, task.max_retry) == ("", "default", 0, 25)
    assert task.headers == {}
    assert task.options is EMPTY


def test_a_task_carries_options():
    """Row 97."""
    task = Task("t", b"", queue="low", task_id="x", max_retry=0, timeout=30)
    assert (task.id, task.queue, task.max_retry) == ("x", "low", 0)
    assert task.options == Options.of(queue="low", task_id="x", max_retry=0, timeout=30)


def test_options_of_a_task_are_checked_when_it_is_made():
    with pytest.raises(ValueError, match=r"^unique must "):
        Task("t", unique=0.5)
    with pytest.raises(TypeError, match="unknown option 'retries'"):
        Task("t", retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


HEADERS = {"99: none": (None, {}), "99: empty": ({}, {}), "99: several": ({"a": "1", "b": ""}, {"a": "1", "b": ""})}


@pytest.mark.rows(99)
@pytest.mark.parametrize(("given", "headers"), HEADERS.values(), ids=HEADERS)
def test_headers(given, headers):
    task = Task("t", headers=given)
    assert task.headers == headers
    assert task.options is EMPTY


@pytest.mark.rows(99)
def test_headers_are_copied():
    """Row 99."""
    headers = {"a": "1"}
    task = Task("t", headers=headers)
    headers["b"] = "2"
    assert task.headers == {"a": "1"}


@pytest.mark.rows(99)
def test_no_two_tasks_share_headers():
    one, other = Task("t"), Task("t")
    one.headers["a"] = "1"
    assert other.headers == {}


@pytest.mark.rows(10)
async def test_a_received_task():
    written: list[bytes] = []

    async def write(data: bytes) -> int:
        written.append(data)
        return len(data)

    task = Task.received("t", b"p", {"a": "1"}, id="x", queue="low", retried=2, max_retry=3, write_result=write)
    assert (task.type, task.payload, task.headers) == ("t", b"p", {"a": "1"})
    assert (task.id, task.queue, task.retried, task.max_retry) == ("x", "low", 2, 3)
    assert await task.write_result(b"\xff") == 1
    assert await task.write_result("ö") == 2
    assert await task.write_result(bytearray(b"abc")) == 3
    assert written == [b"\xff", "ö".encode(), b"abc"]
    with pytest.raises(TypeError, match=r"^data must be bytes"):
        await task.write_result({"a": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert len(written) == 3


def test_a_received_task_without_payload():
    task = Task.received("t", None, {}, id="x", queue="q", retried=0, max_retry=0, write_result=None)
    assert (task.payload, task.raw_payload) == (b"", None)


async def test_only_a_handlers_task_writes_a_result():
    with pytest.raises(RuntimeError, match="task 't' is not being processed"):
        await Task("t").write_result(b"")


def test_it_shows_what_it_is_but_not_its_payload():
    assert repr(Task("t", b"secret", queue="low")) == "<Task 't' in 'low', 6 bytes>"
    assert repr(Task("t", task_id="x")) == "<Task 't' x in 'default', 0 bytes>"


def test_states_are_asynqs_words():
    assert [str(state) for state in TaskState] == [
        "active",
        "pending",
        "scheduled",
        "retry",
        "archived",
        "completed",
        "aggregating",
    ]


def test_info_has_asynqs_fields():
    info = TaskInfo(id="x", queue="q", type="t", state=TaskState.PENDING)
    assert TaskInfo.__struct_fields__[:-1] == (
        *("id", "queue", "type", "payload", "headers", "state", "max_retry", "retried", "last_err", "last_failed_at"),
        *("timeout", "deadline", "next_process_at", "retention", "completed_at", "group", "result", "is_orphaned"),
    )
    assert (info.headers, info.deadline, info.group, info.result, info.is_orphaned) == ({}, None, None, None, False)
