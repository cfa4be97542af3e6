"""The call of a lone enqueue is joined of parts that are kept, and is the same as when it is packed whole."""

from __future__ import annotations

import pytest

from aioasynq import keys
from aioasynq.proto.codec import encode_task
from aioasynq.rdb.pipe import pack
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.storing import _ENQUEUE, _packed
from tests.support.build import message


@pytest.mark.parametrize("clock", ["", "1795437947.25"])
@pytest.mark.parametrize("number", [1, 9, 10, 123_456])
@pytest.mark.parametrize("task_id", ["x", "0af76519-16cd-43dd-8448-eb211c80319c", "Füße " * 30, "*5\r\n"])
@pytest.mark.parametrize("queue", ["default", "größer", "*5\r\n"])
def test_it_is_as_if_packed_whole(queue: str, task_id: str, number: int, clock: str) -> None:
    for payload in (None, b"\r\n$3\r\n", bytes(300)):
        msg = message(task_id, queue, payload=payload)
        for caller in ("me:enqueue any:0:1", "me:enqueue any:0:2"):
            places = (keys.receipt(queue, caller), keys.pending(queue), keys.task(queue, task_id))
            whole = pack(("EVALSHA", _ENQUEUE.sha, 3, *places, number, clock, task_id, encode_task(msg)))
            assert _packed(msg, Receipt(caller, number), clock) == whole
