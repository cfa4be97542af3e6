"""Receipts: what makes a repeated call get the answer of the call that was done."""

from __future__ import annotations

import itertools

from msgspec import Struct

STORING_CALLER = 60.0  #: seconds for which calls that store tasks have receipts of one caller


class Receipt(Struct, frozen=True, gc=False):  # made with each call, in a fifth of the time that a named tuple takes
    """Who makes a writing call, and the how manyth of its calls it is.

    Whoever repeats a call repeats its receipt, and gets the answer of the call that was done. A caller has one call
    under way at a time, and its numbers rise, from 1 on. Redis knows a caller until a minute after its last call, and
    one that stores tasks until two minutes after its first, so after one it takes another name.
    """

    caller: str
    number: int


class Receipts:
    """The receipts of one caller."""

    __slots__ = ("_caller", "_numbers")

    def __init__(self, caller: str) -> None:
        self._caller = caller
        self._numbers = itertools.count(1)

    def next(self) -> Receipt:
        """The receipt of a call that was not made before."""
        return Receipt(self._caller, next(self._numbers))


class StoringReceipts:
    """The same for calls that store tasks, as :class:`Receipt` says: the caller has another name after a minute."""

    __slots__ = ("_caller", "_end", "_name", "_names", "_number")

    def __init__(self, name: str) -> None:
        self._name = name
        self._names = itertools.count(1)
        self._end = 0.0

    def next(self, now: float) -> Receipt:
        """The receipt of a call that was not made before; *now* is seconds by a clock that only goes forward."""
        if now >= self._end:
            self._caller = f"{self._name}:{next(self._names)}"
            self._number = 0
            self._end = now + STORING_CALLER
        self._number += 1
        return Receipt(self._caller, self._number)
