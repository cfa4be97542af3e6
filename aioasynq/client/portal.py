"""Portal: from threads without an event loop to one that has a loop of its own, and back with an answer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Portal(Generic[T]):
    """A thread with an event loop, in which a context manager is open. Its calls are safe from any thread.

    Args:
        opens: makes the context manager, in that thread; calls are given what it yields.
    """

    def __init__(self, opens: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._opens = opens
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._calls: set[Future[Any]] = set()
        self._waits: set[Future[Any]] = set()  # those of them that may take for ever, and store nothing
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, T]] = Future()
        # a daemon: one that was not closed does not keep the process from ending
        self._thread = threading.Thread(target=self._run, args=(started,), name="aioasynq portal", daemon=True)
        self._thread.start()
        self._loop, self._ending, self._thing = started.result()

    def submit(self, function: Callable[[T], Coroutine[Any, Any, R]], *, waits: bool = False) -> Future[R]:
        """Call *function* in the loop, with what is open there. One that only *waits* is cancelled at the end.

        Raises:
            RuntimeError: it is closed.
        """
        with self._lock:  # so that nothing comes to a loop that has ended, where nobody would answer it
            if self._closed:
                raise RuntimeError("this client is closed; make a new one")
            future = asyncio.run_coroutine_threadsafe(function(self._thing), self._loop)
            calls = self._waits if waits else self._calls
            calls.add(future)
        future.add_done_callback(calls.discard)
        return future

    def call(self, function: Callable[[T], Coroutine[Any, Any, R]], *, waits: bool = False) -> R:
        """The same, and wait for what it returns. It is cancelled when the caller is interrupted.

        Raises:
            RuntimeError: it is closed, or was while this waited.
        """
        future = self.submit(function, waits=waits)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("this client was closed while it waited for a result") from None
        except BaseException:  # KeyboardInterrupt; what the call itself raised has ended it already
            future.cancel()
            raise

    def close(self) -> None:
        """Let the calls under way end, cancel those that only wait, close what is open and end the thread.

        Again is no error.
        """
        if self._pid != os.getpid():  # forked: the thread is the parent's
            return
        with self._lock:
            begins, self._closed = not self._closed, True
        if begins:
            self._loop.call_soon_threadsafe(self._ending.set)
        if threading.current_thread() is not self._thread:  # where a garbage collector may call this
            self._thread.join()

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, T]]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live(started))
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    async def _live(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, T]]) -> None:
        ending = asyncio.Event()
        async with self._opens() as thing:
            started.set_result((asyncio.get_running_loop(), ending, thing))
            await ending.wait()
            for wait in tuple(self._waits):
                wait.cancel()
            await asyncio.gather(*map(asyncio.wrap_future, tuple(self._calls)), return_exceptions=True)


def is_in_loop() -> bool:
    """Whether an event loop runs in this thread, so that waiting here would block it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
