"""The Python side of a test, with the faces that go_side.py gives to Go's: events, types of tasks, form of a TaskInfo.

So one table of tests serves both directions.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from aioasynq import (
    RDB,
    Client,
    DuplicateTaskError,
    RevokeTask,
    ServeMux,
    Server,
    SkipRetry,
    Task,
    TaskIDConflictError,
    TaskInfo,
    TaskState,
    keys,
)
from aioasynq.compose import task_info
from aioasynq.proto.codec import decode_task
from aioasynq.rdb.lifecycle import Leased
from aioasynq.rdb.upkeep import Forwarded
from aioasynq.retry import default_delay
from tests.conformance.go_side import GoError, Program
from tests.conformance.history import PATIENCE, History, Json

_ROOT = Path(__file__).parents[2]
_SETTLED_AS = {
    "done": "done",
    "mark_as_complete": "completed",
    "requeue": "pending",
    "retry": "retry",
    "kill": "archived",
}
_MOMENTS = ("last_failed_at", "deadline", "next_process_at", "completed_at")


class SoftError(Exception):
    """A failure that does not count as one."""


class PythonClient:
    """aioasynq's Client."""

    def __init__(self, redis_url: str) -> None:
        self._client = Client(redis_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def enqueue(
        self,
        type: str,  # noqa: A002
        payload: bytes | str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Json:
        """Enqueue a task and return its TaskInfo. *defaults* are options of the task, *options* those of the call."""
        own: dict[str, Any] = dict(defaults or {})
        task = Task(type, payload, headers=headers, **own)
        return as_go(await self._client.enqueue(task, **options))

    async def enqueue_many(self, tasks: Iterable[Task]) -> None:
        """Enqueue them all, or raise the first refusal."""
        for info in await self._client.enqueue_many(tasks):
            if isinstance(info, BaseException):
                raise info


class PythonServer(History):
    """aioasynq's Server, with handlers that do what a task's type says. Its block begins when it is ready.

    Types of tasks and events are those of Go's ``serve``, which README.md lists. Beside them ``return`` returns its
    payload as text, ``return-bytes`` as bytes.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queues: Mapping[str, int] | Sequence[str] = ("default",),
        concurrency: int = 10,
        retry_delay: float | None = None,
        **config: Any,
    ) -> None:
        super().__init__()
        self._released: defaultdict[str, asyncio.Future[Json]] = defaultdict(asyncio.Future)
        self.rdb = _Witness(redis_url, self)
        self.server = Server(
            self.rdb,
            self._mux(),
            queues=queues,
            concurrency=concurrency,
            is_failure=lambda error: not isinstance(error, SoftError),
            retry_delay=default_delay if retry_delay is None else lambda *_: retry_delay,
            **config,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.server.hurry()
        await self.server.shutdown()
        await self.rdb.aclose()

    async def at_rest(self) -> None:
        """Wait until the server, which was stopped, takes no more tasks and has no call under way."""
        await asyncio.wait({task for task in asyncio.all_tasks() if task.get_name() == "aioasynq fetcher"})
        engine = self.server._engine
        assert engine is not None
        await engine._rdb.settled()

    async def start(self) -> None:
        """Start, and wait until there was a heartbeat and cancelations are heard; nobody tells, so it is asked for."""
        redis = self.rdb.client
        before = await _listeners(redis)
        await self.server.start()
        info = self.server.describe()
        async with asyncio.timeout(PATIENCE):
            while await _listeners(redis) == before:
                pass
            while not await redis.exists(keys.server(info.host, info.pid, info.server_id)):
                pass

    def release(self, id: str, outcome: str = "ok", *, text: str = "", result: bytes | None = None) -> None:  # noqa: A002
        """End a task of type ``block``: ok, fail, soft, skip or revoke."""
        self._released[id].set_result({"outcome": outcome, "text": text, "result": result})

    def _mux(self) -> ServeMux:
        mux = ServeMux()
        for word in ("ok", "fail", "soft", "skip", "revoke", "result", "return", "return-bytes", "sleep", "block"):
            mux.add(word, self._handle)
        return mux

    async def _handle(self, task: Task) -> object:
        self.add(
            {
                "event": "started", "id": task.id, "queue": task.queue, "type": task.type, "payload": task.payload,
                "headers": task.headers, "retried": task.retried, "max_retry": task.max_retry,
            }
        )  # fmt: skip
        try:
            value = await self._steered(task)
        except asyncio.CancelledError:
            self.add({"event": "cancelled", "id": task.id})
            raise
        except Exception as error:
            self.add({"event": "failed", "id": task.id, "error": str(error)})
            raise
        self.add({"event": "finished", "id": task.id})
        return value

    async def _steered(self, task: Task) -> object:
        word, _, argument = task.type.partition(":")
        match word:
            case "fail":
                if not argument or task.retried < int(argument):
                    raise RuntimeError(task.payload.decode() or "boom")
            case "soft" | "skip" | "revoke":
                _end(word)
            case "result":
                await task.write_result(task.payload)
            case "return":
                return task.payload.decode()
            case "return-bytes":
                return task.payload
            case "sleep":
                await asyncio.sleep(int(argument) / 1000)
            case "block":
                how = await self._released[task.id]
                if how["result"] is not None:
                    await task.write_result(how["result"])
                _end(how["outcome"], how["text"])
            case _:
                pass
        return None


class PythonProcess(Program):
    """A PythonServer in a process of its own, to be killed. Its block begins when it is ready."""

    def __init__(self, redis_url: str, *, queues: Sequence[str]) -> None:
        super().__init__(sys.executable, str(_ROOT / "tests/conformance/python_worker.py"), redis_url, *queues)

    async def start(self) -> None:
        await super().start()
        await self.wait("ready")


class _Witness(RDB):
    """Reports what is in Redis by now, as Go's programs do."""

    def __init__(self, redis_url: str, history: History) -> None:
        super().__init__(redis_url)
        self._history = history

    async def _settle(self, script: Any, items: Sequence[Leased], *args: Any, **kwargs: Any) -> list[bool]:
        answers = await super()._settle(script, items, *args, **kwargs)
        as_ = _SETTLED_AS[script.name]
        for item, ours in zip(items, answers, strict=True):
            event = {"event": "settled", "id": item.id, "queue": item.queue, "as": as_}
            self._history.add(event if ours else event | {"error": "lost"})
        return answers

    async def check_and_enqueue(self, *queues: str, **kwargs: Any) -> Forwarded:
        forwarded = await super().check_and_enqueue(*queues, **kwargs)
        if forwarded.moved:
            self._history.add({"event": "forwarded", "count": forwarded.moved})
        return forwarded

    async def delete_expired_completed(self, *queues: str, **kwargs: Any) -> int:
        count = await super().delete_expired_completed(*queues, **kwargs)
        if count:
            self._history.add({"event": "expired", "count": count})
        return count


def as_go(info: TaskInfo) -> Json:
    """*info* as the Go programs write a TaskInfo. What Go has as nil or as nothing is empty."""
    go: Json = {name: getattr(info, name) for name in TaskInfo.__struct_fields__ if name != "progress"}  # ours alone
    for name in _MOMENTS:
        if isinstance(moment := go[name], datetime):
            go[name] = moment.timestamp()
    return go | {"state": str(info.state), "group": info.group or "", "result": info.result or b""}


def differences(ones: Json, others: Json) -> Json:
    """The fields in which two TaskInfos differ. Moments are the same within a second; no bytes are empty bytes."""
    out: Json = {}
    for name in ones.keys() | others.keys():
        one: Any = ones.get(name)
        other: Any = others.get(name)
        if name in {"payload", "result"}:
            one, other = one or b"", other or b""
        if name in _MOMENTS and one is not None and other is not None:
            one, other = (one, one) if abs(one - other) < 1.001 else (one, other)
        if one != other:
            out[name] = (one, other)
    return out


async def read_task(redis: Redis, queue: str, id: str) -> Json:  # noqa: A002
    """What our codec makes of a task in Redis, as the Go programs write a TaskInfo."""
    stored: dict[Any, Any] = await redis.hgetall(keys.task(queue, id))
    state = TaskState(stored[b"state"].decode())
    at: float | None = None
    if state in {TaskState.SCHEDULED, TaskState.RETRY}:
        at = await redis.zscore(f"{keys.prefix(queue)}{state}", id)
    elif state is TaskState.PENDING:
        seconds, micros = await redis.time()
        at = seconds + micros / 1e6
    return as_go(task_info(decode_task(stored[b"msg"]), state, at, result=stored.get(b"result")))


def refusal(error: BaseException) -> str:
    """The name of a refusal, whoever refused."""
    match error:
        case GoError():
            return error.name
        case DuplicateTaskError():
            return "duplicate"
        case TaskIDConflictError():
            return "id_conflict"
        case _:
            return "other"


def _end(outcome: str, text: str = "") -> None:
    text = text or "boom"
    match outcome:
        case "fail":
            raise RuntimeError(text)
        case "soft":
            raise SoftError("soft")
        case "skip":
            raise SkipRetry(text)
        case "revoke":
            raise RevokeTask(text)
        case _:
            pass


async def _listeners(redis: Any) -> int:
    [(_, count)] = await redis.pubsub_numsub(keys.CANCEL)
    return int(count)
