"""The Go side of a test: asynq's client, server, scheduler, inspector and Redis operations, each a process of its own.

All programs read and write JSON, one object a line; README.md beside this file describes the lines. What Go prints of
its own accord is an event; what it prints when asked is an answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conformance.go_build import BIN
from tests.conformance.history import PATIENCE, EndedError, History, Json

_LINE_LIMIT = 64 * 1024 * 1024  # bytes; a line holds a payload as base64
_STDERR_LINES = 60
_BYTES = ("payload", "result", "task_payload")  # members that are base64


class GoError(Exception):
    """An error that asynq returned: *name* is the sentinel's, in snake case, or ``other``."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Program(History):
    """One program at work, as an async context manager. It ends with its block, or when the tests do."""

    def __init__(self, *command: str) -> None:
        super().__init__()
        self._command = command
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.kill()

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """Exit status once it has ended; negative for the signal that killed it."""
        return self._started.returncode

    @property
    def stderr(self) -> str:
        """The last lines that the program wrote on stderr, asynq's log among them."""
        return "\n".join(self._stderr)

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LINE_LIMIT
        )
        self._stderr_read = asyncio.create_task(self._read_stderr())
        self._stdout_read = asyncio.create_task(self._read_stdout())

    async def close(self) -> None:
        """End the program the way it ends by itself: no more input."""
        stdin = self._started.stdin
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._gone()
        except TimeoutError:
            await self.kill()
            raise

    async def terminate(self) -> int:
        """Send SIGTERM and wait for the end; the exit status."""
        self.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            return await self._gone()

    async def kill(self) -> None:
        """Send SIGKILL: what a crash, or a machine that is switched off, is to Redis."""
        self.send_signal(signal.SIGKILL)
        await self._gone()

    def send_signal(self, number: int) -> None:
        if self._started.returncode is None:
            self._started.send_signal(number)

    async def ask(self, line: Mapping[str, object]) -> Any:
        """Send one line and wait for its answer. Calls may overlap; they are answered in the order they were made.

        Raises:
            GoError: asynq answered with an error.
            EndedError: the program ended before it answered.
        """
        answer = asyncio.get_running_loop().create_future()
        if self._ended:
            raise self._end()
        self._asked.append(answer)
        self.tell(line)
        async with asyncio.timeout(PATIENCE):
            return await answer

    def tell(self, line: Mapping[str, object]) -> None:
        """Send one line that has no answer."""
        stdin = self._started.stdin
        assert stdin is not None
        stdin.write(json.dumps(line, default=plain).encode() + b"\n")

    @property
    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the program was not started")
        return self._process

    async def _gone(self) -> int:
        await asyncio.gather(self._stdout_read, self._stderr_read)
        return await self._started.wait()

    async def _read_stdout(self) -> None:
        stdout = self._started.stdout
        assert stdout is not None
        while raw := await stdout.readline():
            try:
                line: Json = json.loads(raw)
            except ValueError:  # cut in the middle by a kill
                continue
            if "event" in line:
                self.add(_decoded(line))
            else:
                self._answer(line)
        await self._stderr_read  # so that whoever is told of the end is told why
        self.end()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(self._end())

    def _answer(self, line: Json) -> None:
        answer = self._asked.popleft()
        if answer.done():  # its caller has given up
            return
        if error := line.get("error"):
            answer.set_exception(GoError(error["name"], error["text"]))
        else:
            answer.set_result(_decoded(line["ok"]))

    async def _read_stderr(self) -> None:
        stderr = self._started.stderr
        assert stderr is not None
        while raw := await stderr.readline():
            self._stderr.append(raw.decode(errors="replace").rstrip())

    def _end(self, what: str = "no answer") -> EndedError:
        name = Path(self._command[0]).name
        return EndedError(f"{name} ended with {self.returncode}, {what}; stderr:\n{self.stderr}")

    def _last_words(self) -> str:
        return self.stderr


class GoProgram(Program):
    """One of the Go programs."""

    def __init__(self, program: str, *arguments: str, folder: Path = BIN) -> None:
        super().__init__(str(folder / program), *arguments)


class GoClient(GoProgram):
    """asynq's Client."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("enqueue", "--redis", redis_url)

    async def enqueue(
        self,
        type: str,  # noqa: A002
        payload: bytes | str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        defaults: Mapping[str, object] | None = None,
        **options: object,
    ) -> Json:
        """Enqueue a task and return asynq's TaskInfo. *defaults* are options of the task, *options* those of the call.

        Raises:
            GoError: named ``duplicate``, ``id_conflict`` or ``other``.
        """
        info: Json = await self.ask(_task(type, payload, headers, defaults, options))
        return info


class GoServer(GoProgram):
    """asynq's Server, with handlers that do what a task's type says. Its block begins when it is ready."""

    def __init__(
        self,
        redis_url: str,
        *,
        queues: Mapping[str, int] | Iterable[str] = ("default",),
        strict: bool = False,
        concurrency: int = 10,
        retry_delay: float | None = None,
        shutdown_timeout: float = 1.0,
        check_interval: float = 0.02,
        delayed_check_interval: float = 0.2,
        janitor_interval: float = 0.2,
        aggregate: str = "",
        group_grace_period: float = 1.0,
        group_max_delay: float = 0.0,
        group_max_size: int = 0,
        hang: bool = False,
        log_level: str = "warn",
        wait_until_ready: bool = True,
    ) -> None:
        """Times are in seconds. *hang* makes every task hang until the process is killed.

        *wait_until_ready* is off where Redis is not there yet.
        """
        weights = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1)
        arguments = {
            "redis": redis_url,
            "queues": ",".join(f"{name}={weight}" for name, weight in weights.items()),
            "strict": strict,
            "concurrency": concurrency,
            "shutdown-timeout": timedelta(seconds=shutdown_timeout),
            "check-interval": timedelta(seconds=check_interval),
            "delayed-check-interval": timedelta(seconds=delayed_check_interval),
            "janitor-interval": timedelta(seconds=janitor_interval),
            "aggregate": aggregate,
            "group-grace-period": timedelta(seconds=group_grace_period),
            "group-max-delay": timedelta(seconds=group_max_delay),
            "group-max-size": group_max_size,
            "hang": hang,
            "log-level": log_level,
        }
        if retry_delay is not None:
            arguments["retry-delay"] = timedelta(seconds=retry_delay)
        super().__init__("serve", *(f"--{name}={_flag(value)}" for name, value in arguments.items()))
        self._wait_until_ready = wait_until_ready

    async def start(self) -> None:
        await super().start()
        if self._wait_until_ready:
            try:
                await self.wait("ready")
            except BaseException:
                await self.kill()
                raise

    def release(self, id: str, outcome: str = "ok", *, text: str = "", result: bytes | None = None) -> None:  # noqa: A002
        """End a task of type ``block`` or ``stubborn``: ok, fail, soft, skip, revoke or panic."""
        self.tell({"release": id, "outcome": outcome, "text": text, "result": result})

    async def quiet(self) -> None:
        """Send SIGTSTP: no more tasks are taken, running ones go on."""
        self.send_signal(signal.SIGTSTP)
        await self.wait("quiet")


class GoScheduler(GoProgram):
    """asynq's Scheduler."""

    def __init__(self, redis_url: str, *, heartbeat: float = 1.0, location: str = "UTC") -> None:
        """*heartbeat* is in seconds; asynq wants whole ones."""
        interval = _flag(timedelta(seconds=heartbeat))
        super().__init__("schedule", "--redis", redis_url, "--heartbeat", interval, "--location", location)

    async def register(
        self,
        spec: str,
        type: str,  # noqa: A002
        payload: bytes | str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        defaults: Mapping[str, object] | None = None,
        **options: object,
    ) -> str:
        """Register a periodic task; the id of its entry."""
        entry: str = await self.ask({"register": {"spec": spec, **_task(type, payload, headers, defaults, options)}})
        return entry

    async def unregister(self, entry: str) -> None:
        await self.ask({"unregister": entry})


class GoInspector(GoProgram):
    """asynq's Inspector: its methods by their names in snake case."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("inspect", "--redis", redis_url)

    async def call(self, name: str, queue: str | None = None, **arguments: object) -> Any:
        """Call one method. Arguments: queue, id, group, page, size, days, force, payload, entry.

        Raises:
            GoError: named ``queue_not_found``, ``queue_not_empty``, ``task_not_found`` or ``other``.
        """
        return await self.ask({"call": name, "queue": queue or "", **arguments})

    async def queue(self, queue: str) -> Json:
        """GetQueueInfo."""
        info: Json = await self.call("get_queue_info", queue)
        return info

    async def task(self, queue: str, id: str) -> Json:  # noqa: A002
        """GetTaskInfo."""
        info: Json = await self.call("get_task_info", queue, id=id)
        return info

    async def tasks(self, queue: str, state: str, **arguments: object) -> list[Json]:
        """The tasks of a queue in one state: ``ListPendingTasks`` and its siblings."""
        infos: list[Json] = await self.call(f"list_{state}_tasks", queue, **arguments)
        return infos


class GoMetrics(GoProgram):
    """The collector of asynq's x/metrics."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("metrics", "--redis", redis_url)

    async def scrape(self) -> str:
        """What Prometheus would read."""
        text: str = await self.ask({})
        return text


class GoPlayer(GoProgram):
    """asynq's own Redis operations, on a clock that can be set."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("rdb", "--redis", redis_url)

    async def step(self, op: str, **arguments: object) -> Any:
        """Play one operation.

        Raises:
            GoError: named as those of the other programs, or ``nothing_pending``, ``not_active``.
        """
        return await self.ask({"op": op, **arguments})

    async def set_clock(self, now: float | datetime | None) -> None:
        """Freeze the clock at *now*; with None it runs."""
        await self.step("set_clock", now=now)

    async def play(self, steps: Sequence[Mapping[str, object]]) -> list[Json]:
        """Play all steps in order, also after errors; ``{"ok": …}`` or ``{"error": name}`` for each."""
        answers = await asyncio.gather(*map(self.ask, steps), return_exceptions=True)
        out: list[Json] = []
        for answer in answers:
            if isinstance(answer, GoError):
                out.append({"error": answer.name})
            elif isinstance(answer, BaseException):
                raise answer
            else:
                out.append({"ok": answer})
        return out


class Asynqmon(GoProgram):
    """asynqmon's page and API, on a port of their own."""

    def __init__(self, redis_url: str, *, read_only: bool = False) -> None:
        super().__init__("asynqmon", "--redis", redis_url, f"--read-only={_flag(read_only)}")
        self.url = ""  #: known once it has started

    async def start(self) -> None:
        await super().start()
        self.url = (await self.wait("ready"))["url"]


def _task(
    type: str,  # noqa: A002
    payload: bytes | str | None,
    headers: Mapping[str, str] | None,
    defaults: Mapping[str, object] | None,
    options: Mapping[str, object],
) -> Json:
    payload = payload.encode() if isinstance(payload, str) else payload
    return {"type": type, "payload": payload, "headers": headers, "defaults": defaults or {}, **options}


def plain(value: object) -> object:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.timestamp()
        case _:
            raise TypeError(f"{value!r} has no form in JSON here")


def _decoded(value: Any) -> Any:
    """*value* with its base64 members as bytes."""
    match value:
        case dict():
            return {
                name: base64.b64decode(member) if name in _BYTES and isinstance(member, str) else _decoded(member)
                for name, member in value.items()
            }
        case list():
            return [_decoded(member) for member in value]
        case _:
            return value


def _flag(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case timedelta():
            return f"{value / timedelta(microseconds=1):.0f}us"
        case _:
            return str(value)
