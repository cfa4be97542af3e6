"""A child process: it runs one handler at a time, as its parent says, and ends with its parent.

Its main thread runs handlers; another one reads what the parent says, and ends the process when the parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import importlib.util
import inspect
import itertools
import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import copy_context
from importlib.machinery import SourceFileLoader
from typing import Any, NoReturn, TypeAlias, cast

import msgspec

from aioasynq.codecs import to_plain
from aioasynq.context import CURRENT
from aioasynq.errors import AioasynqError, RetryAfter, TaskNotFoundError
from aioasynq.server.outcome import error_text, steering, trace_of_users
from aioasynq.server.processes import inside
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
    decode_to_child,
    length_of,
    pack,
)
from aioasynq.task import Progress, Task
from aioasynq.typed.calls import Handler
from aioasynq.typed.target import MAIN, MAIN_OF_CHILD, Target, find, named
from aioasynq.typed.task_type import TaskType

NOTE_INTERVAL = 0.05  #: seconds between two steps that are handed to the parent
MAX_TRACEBACK = 32_768  #: characters of it that are handed on, the last ones
PR_SET_PDEATHSIG = 1  #: of Linux, prctl(2)

Around: TypeAlias = Callable[[Callable[[], object]], object]

_encode_result = msgspec.json.Encoder(enc_hook=to_plain).encode


def main(fd: int, parent: int) -> None:
    """Run what the process *parent* says over the socket *fd*."""
    signal.signal(signal.SIGINT, _heed_not)  # these are for the parent. Not SIG_IGN, which what we start would inherit
    signal.signal(signal.SIGTERM, _heed_not)
    _die_with(parent)
    with contextlib.suppress(Exception):  # where there is no stderr
        faulthandler.enable()
    inside.enter()
    Child(socket.socket(fileno=fd)).serve()


def _heed_not(*_: object) -> None:
    pass


def _die_with(parent: int) -> None:
    """Have the system kill us when our parent dies, where it can; the end of the line does it elsewhere."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _end() -> NoReturn:
    """End, with all that handlers have started."""
    if os.getpgrp() == os.getpid():  # a forked one is a member of its parent's
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


class Child:
    """This process, as its parent started it."""

    def __init__(self, line: socket.socket) -> None:
        line.set_inheritable(False)  # what handlers start must not keep the line open
        self._line = line
        self._sending: queue.SimpleQueue[tuple[bytes, threading.Lock]] = queue.SimpleQueue()
        self._is_forked = False
        os.register_at_fork(after_in_child=self._on_fork)
        self._jobs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Wrote]] = {}
        self._notes = Notes(self.say)
        self._main_error: BaseException | None = None
        self._main = MAIN

    def serve(self) -> None:
        """Run handlers until the parent is gone."""
        hello = self._hear()
        assert isinstance(hello, Hello)  # noqa: S101 - the parent begins with it
        sys.path[:] = hello.path
        sys.argv[:] = hello.argv
        threading.Thread(target=self._send, name="aioasynq-sender", daemon=True).start()
        self._set_up_logging(hello)
        threading.Thread(target=self._listen, name="aioasynq-line", daemon=True).start()
        self._import_main(hello)
        while True:
            self._run(self._jobs.get())

    def say(self, frame: FromChild) -> None:
        """Tell the parent, and return when it is on its way.

        A thread sends it: a user's handler of a signal may raise in the middle of this, or say something itself.
        """
        data = pack(frame)
        if self._is_forked:  # what a handler has forked speaks for itself
            if isinstance(frame, Log) and sys.stderr is not None:
                sys.stderr.write(f"{frame.record['levelname']} {frame.record['name']}: {frame.record['msg']}\n")
            return
        sent = threading.Lock()
        sent.acquire()
        self._sending.put((data, sent))
        sent.acquire()

    def _send(self) -> None:
        while True:
            data, sent = self._sending.get()
            try:
                self._line.sendall(data)
            except OSError:
                _end()  # the parent is gone
            sent.release()

    def _on_fork(self) -> None:
        self._is_forked = True
        self._line.close()

    def _hear(self) -> ToChild:
        frame: ToChild = decode_to_child(self._read(length_of(self._read(HEAD))))
        return frame

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                got = self._line.recv_into(view)
            except OSError:
                got = 0
            if not got:
                _end()  # the parent is gone
            view = view[got:]
        return bytes(data)

    def _listen(self) -> None:
        while True:
            frame = self._hear()
            if isinstance(frame, Run):
                self._jobs.put(frame)
            elif isinstance(frame, Wrote) and frame.number in self._answers:
                self._answers.pop(frame.number).put(frame)

    def _set_up_logging(self, hello: Hello) -> None:
        logging.root.addHandler(_ToParent(self.say))
        for name, level in hello.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(hello.disabled)

    def _import_main(self, hello: Hello) -> None:
        """Import the program under another name, as multiprocessing does, so that it is not run again."""
        try:
            if hello.main_name is not None:
                self._main = hello.main_name
                sys.modules[MAIN_OF_CHILD] = importlib.import_module(hello.main_name)
            elif hello.main_file is not None:
                self._main = MAIN_OF_CHILD
                loader = SourceFileLoader(MAIN_OF_CHILD, hello.main_file)
                spec = importlib.util.spec_from_file_location(MAIN_OF_CHILD, hello.main_file, loader=loader)
                assert spec is not None  # noqa: S101 - the loader is given
                module = importlib.util.module_from_spec(spec)
                sys.modules[MAIN_OF_CHILD] = module
                loader.exec_module(module)
        except BaseException as exc:  # noqa: BLE001 - said by each task that needs it
            self._main_error = exc

    # ── a task ──

    def _run(self, job: Run) -> None:
        self.say(Began(job.job))
        end: Returned | Raised
        try:
            end = self._returned(job, copy_context().run(self._call, job))
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its task's affair
            end = self._raised(job, exc)
        if not self._is_forked:
            self._notes.finish()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if self._is_forked:  # the handler has returned in both
            os._exit(0)
        try:
            self.say(end)
        except ValueError as exc:
            self.say(self._raised(job, exc))

    def _call(self, job: Run) -> object:
        task = Task.received(
            job.type,
            job.payload,
            job.headers,
            id=job.id,
            queue=job.queue,
            retried=job.retried,
            max_retry=job.max_retry,
            ends=job.ends,
            write_result=self._writer(job),
            note_progress=lambda _, step: self._note(job.job, step),
        )
        CURRENT.set(task)
        if job.module == MAIN and self._main_error is not None:
            raise self._main_error

        def answer() -> object:
            found = find(Target(job.module, job.name))
            answer = found.call(task) if isinstance(found, TaskType) else cast("Handler", found)(task)
            return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer

        return cast("Around", find(named(job.around)))(answer) if job.around else answer()

    def _note(self, job: int, step: Progress) -> None:
        if not self._is_forked:  # where nobody would ever let go of the lock, should it have been held
            self._notes.note(job, step)

    def _writer(self, job: Run) -> Callable[[bytes], Any]:
        async def write(data: bytes) -> int:
            number = next(self._numbers)
            answer = self._answers[number] = queue.SimpleQueue()
            self.say(Write(job.job, number, data))
            wrote = await asyncio.to_thread(answer.get)
            if wrote.is_missing:
                raise TaskNotFoundError(job.queue, job.id)
            if wrote.error is not None:
                raise AioasynqError(wrote.error)
            return wrote.size

        return write

    @staticmethod
    def _returned(job: Run, value: object) -> Returned:
        if value is None or isinstance(value, bytes):
            return Returned(job.job, value, is_json=False)
        try:
            return Returned(job.job, _encode_result(value), is_json=True)
        except BaseException as exc:  # noqa: BLE001 - a hook of the value's class may raise anything
            return Returned(job.job, None, is_json=True, unfit=type(value).__name__, why=error_text(exc))

    def _raised(self, job: Run, error: BaseException) -> Raised:
        verdict = steering(error)
        names = [f"{MAIN if each.__module__ == self._main else each.__module__}:{each.__qualname__}"
                 for each in type(error).__mro__]  # fmt: skip
        lines = traceback.format_exception(type(error), error, trace_of_users(error))
        return Raised(
            job.job,
            text=_sayable(error_text(error)),
            kind=type(error).__name__,
            traceback=_sayable("".join(lines).rstrip()[-MAX_TRACEBACK:]),
            kinds=names,
            verdict=None if verdict is None else _kind_of(verdict),
            verdict_text="" if verdict is None else _sayable(_reason_of(verdict)),
            delay=verdict.delay if isinstance(verdict, RetryAfter) else 0.0,
            is_direct=verdict is error,
        )


class Notes:
    """Hands the latest step of progress to the parent, not too often, and the last one always."""

    def __init__(self, say: Callable[[FromChild], None]) -> None:
        self._say = say
        self._next: Note | None = None
        self._changed = threading.Condition()
        self._saying = threading.Lock()  # held from taking a step until it is said: nothing overtakes it
        self._thread: threading.Thread | None = None
        self._finishing = False

    def note(self, job: int, step: Progress) -> None:
        """Tell the parent soon."""
        with self._changed:
            if self._next is not None and self._next.job > job:
                return  # a thread has outlived its task
            self._next = Note(job, step.fraction, step.text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="aioasynq-progress", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def finish(self) -> None:
        """See it told: what is said afterwards comes after it."""
        with self._saying:
            with self._changed:
                step, self._next = self._next, None
            if step is not None:
                self._say(step)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._changed:
                while self._next is None:
                    self._changed.wait()
            self.finish()
            pause.wait(NOTE_INTERVAL)


class _ToParent(logging.Handler):
    """Hands records to the parent's logging."""

    def __init__(self, say: Callable[[FromChild], None]) -> None:
        super().__init__()
        self._say = say
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, with its text made here."""
        try:
            trace = record.exc_text
            if not trace and record.exc_info and record.exc_info[0] is not None:
                trace = self._formatter.formatException(record.exc_info)
            said = {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": _sayable(record.getMessage()),
                "exc_text": trace and _sayable(trace),
                "pathname": record.pathname,
                "filename": record.filename,
                "module": record.module,
                "lineno": record.lineno,
                "funcName": record.funcName,
                "created": record.created,
                "msecs": record.msecs,
                "process": record.process,
                "threadName": record.threadName,
            }
        except Exception:  # noqa: BLE001 - as every handler of logging
            self.handleError(record)
            return
        try:
            self._say(Log(said))  # what a user's handler of a signal raises meanwhile gets out
        except (TypeError, ValueError):  # it is too long, or has strange fields
            self.handleError(record)


async def _awaited(answer: Any) -> object:
    return await answer


def _kind_of(verdict: BaseException) -> str:
    return next(each.__name__ for each in type(verdict).__mro__ if each.__module__ == AioasynqError.__module__)


def _reason_of(verdict: BaseException) -> str:
    reason = getattr(verdict, "reason", None)
    return reason if reason and isinstance(reason, str) else error_text(verdict)


def _sayable(text: str) -> str:
    """The same without halves of letters, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()
