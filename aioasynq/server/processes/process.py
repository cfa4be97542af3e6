"""A child process, as its parent sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import traceback
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aioasynq.codecs import Unfit
from aioasynq.errors import (
    ChildDiedError,
    ChildTaskError,
    PayloadError,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    TaskNotFoundError,
)
from aioasynq.server.outcome import error_text
from aioasynq.server.processes.frames import (
    HEAD,
    Began,
    FromChild,
    Hello,
    Log,
    Note,
    Raised,
    Returned,
    Run,
    ToChild,
    Write,
    Wrote,
    decode_from_child,
    length_of,
    pack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioasynq.task import Task

log = logging.getLogger(__name__)

LAST_WORDS = 0.2  #: seconds after its death in which what a child has said is still read

_PACKAGE = str(Path(__file__).parents[3])
_VERDICTS: dict[str, Callable[[str], Exception]] = {
    "SkipRetry": SkipRetry,
    "RevokeTask": RevokeTask,
    "PayloadError": PayloadError,
}

_decode_result = msgspec.json.Decoder().decode


class ChildProcess:
    """One child, and what it runs.

    Args:
        on_end: called when it has ended, however.
    """

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_end: Callable[[ChildProcess], object],
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._on_end = on_end
        self._task: Task | None = None
        self._job = 0
        self._end: asyncio.Future[Returned | Raised] | None = None
        self._began = False
        self._wanted = True  # nobody has ended it
        self._writes: set[asyncio.Task[None]] = set()
        self._life = asyncio.get_running_loop().create_task(self._live(), name="aioasynq child process")

    @classmethod
    async def start(cls, hello: Hello, on_end: Callable[[ChildProcess], object]) -> ChildProcess:
        """Start a new interpreter, no fork: threads and locks of this one would not outlive that.

        Raises:
            OSError: the system does not let us.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            code = f"import sys; sys.path.append({_PACKAGE!r}); from aioasynq.server.processes.child import main"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", f"{code}; main({theirs.fileno()}, {os.getpid()})"),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for us; and it can be killed with all that it has started
            )
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            theirs.close()
        writer.write(pack(hello))
        return cls(process, reader, writer, on_end)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_fit(self) -> bool:
        """It lives, as far as we know, and nobody wants it to end."""
        return self._wanted and not self._life.done() and self._process.returncode is None

    @property
    def died(self) -> bool:
        """It has ended by itself."""
        return self._wanted and self._process.returncode is not None

    @property
    def has_begun(self) -> bool:
        """The last handler it was given was begun, for all we know."""
        return self._began

    async def run(self, run: Run, task: Task) -> object:
        """Run a handler, and hand back what it returns. When the caller is cancelled, the child is killed.

        Raises:
            ChildDiedError: it died.
            ChildTaskError, SkipRetry, RevokeTask, RetryAfter, PayloadError: as the handler raised.
        """
        self._task, self._job, self._began = task, run.job, False
        end = self._end = asyncio.get_running_loop().create_future()
        try:
            self._say(run)
            answer = await end
        except BaseException:
            self.kill()
            await asyncio.wait({self._life})
            raise
        finally:
            self._task = self._end = None
        if isinstance(answer, Raised):
            raise _error(answer)
        return _value(answer)

    def kill(self) -> None:
        """End it now, with all that it has started."""
        self._wanted = False
        if self._process.returncode is None:
            self._kill_all()

    async def close(self) -> None:
        """End it, with all that its handlers have started and left."""
        self.kill()
        await asyncio.wait({self._life})

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _say(self, frame: ToChild) -> None:
        self._writer.write(pack(frame))

    async def _live(self) -> None:
        """Hear what it says until it has ended."""
        hearing = asyncio.get_running_loop().create_task(self._hear(), name="aioasynq child process line")
        ended = asyncio.get_running_loop().create_task(self._process.wait(), name="aioasynq child process end")
        try:
            await asyncio.wait({hearing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # it has closed its end of the line, or talks nonsense
                await asyncio.wait({ended}, timeout=LAST_WORDS)
                if self._wanted:
                    self.kill()
            await ended
            await asyncio.wait({hearing}, timeout=LAST_WORDS)
        finally:
            self._kill_all()  # what it has left; the number is nobody else's while one of them is there
            for task in (hearing, ended, *self._writes):
                task.cancel()
            self._writer.transport.abort()
            if self._end is not None and not self._end.done():
                self._end.set_exception(ChildDiedError(self._death()))
            self._on_end(self)

    def _death(self) -> str:
        code = self._process.returncode or 0
        how = f"ended with exit code {code}"
        if code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        return f"the child process {self.pid} {how} {'while it ran' if self._began else 'before it began'} the handler"

    async def _hear(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = length_of(await self._reader.readexactly(HEAD))
                try:
                    self._on(decode_from_child(await self._reader.readexactly(length)))
                except msgspec.MsgspecError:
                    log.exception("the child process %d talks nonsense and is killed", self.pid)
                    return

    def _on(self, frame: FromChild) -> None:
        if isinstance(frame, Log):
            _log(frame.record)
        elif frame.job != self._job or self._task is None or self._end is None:
            return  # of a handler that has ended, from a thread that it has left behind
        elif isinstance(frame, Returned | Raised):
            if not self._end.done():
                self._end.set_result(frame)
        elif isinstance(frame, Began):
            self._began = True
        elif isinstance(frame, Note):
            with suppress(RuntimeError):  # middleware has handed on a task of its own making
                self._task.progress_sync(frame.fraction, frame.text)
        else:
            write = asyncio.get_running_loop().create_task(self._write(self._task, frame))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _write(self, task: Task, frame: Write) -> None:
        try:
            self._say(Wrote(frame.number, await task.write_result(frame.data), None))
        except TaskNotFoundError as exc:
            self._say(Wrote(frame.number, 0, str(exc), is_missing=True))
        except Exception as exc:  # noqa: BLE001 - the handler waits for an answer, whatever it is
            self._say(Wrote(frame.number, 0, error_text(exc)))


def _error(raised: Raised) -> Exception:
    verdict: Exception | None = None
    if raised.verdict == "RetryAfter":
        verdict = RetryAfter(raised.delay, raised.verdict_text)
    elif raised.verdict is not None:
        verdict = _VERDICTS[raised.verdict](raised.verdict_text)
    if verdict is not None and raised.is_direct:
        return verdict
    error = ChildTaskError(raised.text, raised.kind, raised.traceback, frozenset(raised.kinds))
    error.__cause__ = verdict
    return error


def _value(returned: Returned) -> object:
    if returned.unfit is not None:
        # an object of the same name, which JSON cannot hold either: whether that matters is for others to say
        return type(returned.unfit, (Unfit,), {"why": returned.why})()
    return _decode_result(returned.data or b"") if returned.is_json else returned.data


def _log(said: dict[str, Any]) -> None:
    logger = logging.getLogger(said["name"])
    if not logger.isEnabledFor(said["levelno"]):
        return
    try:
        logger.handle(logging.makeLogRecord(said))
    except Exception:  # noqa: BLE001 - a filter of the user's; it is no reason to end a child
        if logging.raiseExceptions:  # as the handlers of logging do
            traceback.print_exc()
