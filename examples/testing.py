"""Tests of a program that uses aioasynq, with the fixtures that come with it.

pytest -o asyncio_mode=auto examples/testing.py     # prints: 6 passed
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from aioasynq import Client, PayloadError, ServeMux, Task, TaskState
from aioasynq.pytest_plugin import StartWorker
from aioasynq.testing import Clock, InlineClient, RecordingClient, assert_enqueued, run_until_idle

# ── the program ──

mux = ServeMux()
bank = {"answers": True}
sent: list[str] = []


@mux.task("pay", max_retry=2, retry=60)
async def pay(order: int, amount: int) -> None:
    if not bank["answers"]:
        raise ConnectionError("the bank does not answer")
    sent.append(f"{amount} for order {order}")


@mux.task("remind", queue="low")
async def remind(order: int) -> None:
    sent.append(f"a reminder of order {order}")


async def check_out(client: Client, order: int) -> None:
    await pay.enqueue(client, order, amount=100)
    await remind.with_options(process_in=timedelta(days=7)).enqueue(client, order)


# ── its tests ──


@pytest.fixture(autouse=True)
def begin() -> None:
    sent.clear()
    bank["answers"] = True


async def test_what_is_enqueued(aioasynq_client: RecordingClient) -> None:
    await check_out(aioasynq_client, 7)
    info = aioasynq_client.assert_enqueued(pay, amount=100)  # more arguments may be there
    assert info.state == TaskState.PENDING
    aioasynq_client.assert_enqueued("remind", order=7)  # by name, without the code
    aioasynq_client.assert_not_enqueued("remind", order=8)
    await assert_enqueued(aioasynq_client, remind, order=7)  # whoever enqueued it: as Redis has it


async def test_a_week_goes_by(aioasynq_client: RecordingClient, aioasynq_clock: Clock) -> None:
    await check_out(aioasynq_client, 7)
    assert (await run_until_idle(mux, aioasynq_client)).tries == 1
    assert sent == ["100 for order 7"]
    aioasynq_clock.advance(timedelta(days=7))
    await run_until_idle(mux, aioasynq_client)
    assert sent == ["100 for order 7", "a reminder of order 7"]


async def test_the_bank_comes_back(aioasynq_client: RecordingClient, aioasynq_clock: Clock) -> None:
    bank["answers"] = False
    await pay.enqueue(aioasynq_client, 7, 100)
    assert await run_until_idle(mux, aioasynq_client) == (1, 1)  # tries, failures
    bank["answers"] = True
    aioasynq_clock.advance(60)
    assert await run_until_idle(mux, aioasynq_client) == (1, 0)
    assert sent == ["100 for order 7"]


async def test_a_worker_of_ones_own(aioasynq_client: RecordingClient, aioasynq_worker: StartWorker) -> None:
    server = await aioasynq_worker(mux, queues=["default", "low"], concurrency=1)
    await pay.enqueue(aioasynq_client, 7, 100)
    await run_until_idle(server, aioasynq_client)
    assert server.counts.processed == 1


async def test_without_redis() -> None:
    async with InlineClient(mux) as client:
        await check_out(client, 7)  # handlers have run when it returns
        assert sent == ["100 for order 7", "a reminder of order 7"]
        with pytest.raises(PayloadError, match="missing 'amount'"):
            await client.enqueue(Task("pay", '{"order": 7}'))


async def test_without_redis_to_the_end() -> None:
    bank["answers"] = False
    async with InlineClient(mux, raises=False) as client:
        info = await pay.enqueue(client, 7, 100)
    assert (info.state, info.retried, info.last_err) == (TaskState.ARCHIVED, 2, "the bank does not answer")
