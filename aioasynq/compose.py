"""From a task and what was said about it to the message that is stored, and the way it takes (asynq client.go)."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from aioasynq import keys
from aioasynq.message import DEFAULT_TIMEOUT, TaskMessage
from aioasynq.options import EMPTY, MAX_MOMENT, Options, check_headers
from aioasynq.task import DEFAULT_MAX_RETRY, DEFAULT_QUEUE, Task, TaskInfo, TaskState

Route: TypeAlias = Literal[
    "enqueue", "enqueue_unique", "schedule", "schedule_unique", "add_to_group", "add_to_group_unique"
]


class Composed(Struct, gc=False):
    """A message, and how it gets into Redis."""

    msg: TaskMessage
    route: Route  #: the operation that stores it
    when: str  #: "" at once; "+12.500": that many seconds after Redis' now; "1795437947.250": at that unix second
    unique_ttl: int  #: seconds its uniqueness lock lasts from now on, a delay included; 0: not unique
    state: TaskState  #: the one it will be in
    next_process_at: float | None  #: unix seconds, by our clock; None in a group


def compose(task: Task, call: Options, now: float) -> Composed:
    """What *task* becomes with the options of *call*, which win over its own; *now* is unix seconds.

    A time strictly after *now* schedules, even into a group; else a group takes it; else it is pending at once.

    Raises:
        TypeError: *task* is no Task, or its headers are no text.
        ValueError: its headers are not valid Unicode.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task (a function of mux.task makes one: function.task(...)), got {task!r}")
    options = call.over(task.options)
    if options is EMPTY:
        msg = TaskMessage(
            type=task.type,
            payload=task.raw_payload,
            id=new_id(),
            queue=DEFAULT_QUEUE,
            retry=DEFAULT_MAX_RETRY,
            timeout=DEFAULT_TIMEOUT,
            headers=check_headers(task.headers) if task.headers else {},
        )
        return Composed(msg, "enqueue", "", 0, _PENDING, now)

    headers = check_headers(task.headers) if task.headers else {}
    if options.headers:
        headers.update(options.headers)
    timeout = math.ceil(options.timeout or 0)
    deadline = int(options.deadline or 0)
    if not timeout and not deadline:
        timeout = DEFAULT_TIMEOUT
    msg = TaskMessage(
        type=task.type,
        payload=task.raw_payload,
        id=options.task_id or new_id(),
        queue=options.queue or DEFAULT_QUEUE,
        retry=DEFAULT_MAX_RETRY if options.max_retry is None else options.max_retry,
        timeout=timeout,
        deadline=deadline,
        retention=int(options.retention or 0),
        group_key=options.group or "",
        headers=headers,
    )
    delay, when, next_process_at = _time(options, now)
    unique_ttl = 0
    if options.unique:
        msg.unique_key = keys.unique(msg.queue, msg.type, msg.payload)
        unique_ttl = max(1, int(delay + options.unique))
    route: Route
    if when:
        route, state = "schedule_unique" if unique_ttl else "schedule", TaskState.SCHEDULED
        return Composed(msg, route, when, unique_ttl, state, next_process_at)
    if msg.group_key:
        route, state = "add_to_group_unique" if unique_ttl else "add_to_group", TaskState.AGGREGATING
        return Composed(msg, route, "", unique_ttl, state, None)
    return Composed(msg, "enqueue_unique" if unique_ttl else "enqueue", "", unique_ttl, _PENDING, now)


def _time(options: Options, now: float) -> tuple[float, str, float]:
    """Delay in seconds, ``when`` for Redis, the unix second it comes to."""
    if options.process_at is not None and options.process_at > now:
        return options.process_at - now, f"{options.process_at:.3f}", options.process_at
    if options.process_in:
        # what is later than now stays later in milliseconds
        return options.process_in, f"+{max(options.process_in, 0.001):.3f}", now + options.process_in
    return 0.0, "", now


def task_info(
    msg: TaskMessage,
    state: TaskState,
    next_process_at: float | None = None,
    *,
    result: bytes | None = None,
    is_orphaned: bool = False,
) -> TaskInfo:
    """What users see of *msg*; *next_process_at* is unix seconds.

    A time that no ``datetime`` can hold, as a strange message may have, becomes the nearest one that it can.
    """
    info = TaskInfo(
        id=msg.id,
        queue=msg.queue,
        type=msg.type,
        payload=msg.payload or b"",
        headers=msg.headers,
        state=state,
        max_retry=msg.retry,
        retried=msg.retried,
        last_err=msg.error_msg,
        timeout=msg.timeout,
        next_process_at=_moment(next_process_at) if next_process_at else None,
        retention=msg.retention,
        group=msg.group_key or None,
        result=result,
        is_orphaned=is_orphaned,
    )
    # most tasks have none of these
    if msg.deadline:
        info.deadline = _moment(msg.deadline)
    if msg.last_failed_at:
        info.last_failed_at = _moment(msg.last_failed_at)
    if msg.completed_at:
        info.completed_at = _moment(msg.completed_at)
    return info


def _moment(seconds: float) -> datetime:
    if not 0 <= seconds <= MAX_MOMENT:
        seconds = 0 if seconds < 0 else MAX_MOMENT
    return datetime.fromtimestamp(seconds, UTC)


_PENDING: Final = TaskState.PENDING

# Random UUIDs, made by the block, all texts of one at once, digit by digit: one costs a tenth of uuid.uuid4().
_BLOCK = 256
_FORM = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx "
_PLACES = [place for place, letter in enumerate(_FORM) if letter == "x"]
_EMPTY_TEXTS = _FORM.encode() * _BLOCK
_VERSION_4 = bytes(0x40 | byte & 0x0F for byte in range(256))
_VARIANT_1 = bytes(0x80 | byte & 0x3F for byte in range(256))
_ids: list[str] = []


def new_id() -> str:
    """A random UUID (version 4) as text. Safe in threads and after a fork."""
    try:
        return _ids.pop()
    except IndexError:
        first, *others = _block()
        _ids.extend(others)  # each thread adds what it made itself, so none is handed out twice
        return first


def _block() -> list[str]:
    random = bytearray(os.urandom(16 * _BLOCK))
    random[6::16] = random[6::16].translate(_VERSION_4)
    random[8::16] = random[8::16].translate(_VARIANT_1)
    digits = random.hex().encode()
    texts = bytearray(_EMPTY_TEXTS)
    for digit, place in enumerate(_PLACES):
        texts[place :: len(_FORM)] = digits[digit :: len(_PLACES)]
    return texts.decode().split()


os.register_at_fork(after_in_child=_ids.clear)  # parent and child would hand out the same
