"""Nap: a sleep that somebody else may end."""

from __future__ import annotations

import asyncio

import pytest

from aioasynq.server.nap import Nap


async def test_a_nap_ends_by_itself():
    assert not await Nap().sleep(0.001)


async def test_a_nap_is_ended():
    nap = Nap()
    sleep = asyncio.create_task(nap.sleep(60))
    await asyncio.sleep(0)
    nap.wake()
    nap.wake()
    assert await sleep
    assert not await nap.sleep(0), "it was woken once"


@pytest.mark.parametrize(("first", "then"), [(60, 0.001), (0.001, 0.01)], ids=["shorter", "longer"])
async def test_a_nap_may_be_given_another_length(first: float, then: float):
    nap = Nap()
    nap.reset(0)  # nobody sleeps
    sleep = asyncio.create_task(nap.sleep(first))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    nap.reset(then)
    async with asyncio.timeout(10):
        assert not await sleep
    assert asyncio.get_running_loop().time() - began >= then * 0.9


async def test_who_is_woken_before_does_not_sleep():
    nap = Nap()
    nap.wake()
    assert await nap.sleep(60)


async def test_a_sleeper_that_is_cancelled_leaves_nothing():
    nap = Nap()
    sleep = asyncio.create_task(nap.sleep(60))
    await asyncio.sleep(0)
    sleep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleep
    nap.wake()
    assert await nap.sleep(60)
