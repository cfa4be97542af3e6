"""F7: entries of a queue that are no tasks, or no good ones.

| entry | where it ends |
|---|---|
| a handler that raises whenever it is tried | archive, after its last retry |
| a result that cannot be stored | archive |
| a type that nobody handles | archive, after its last retry |
| bytes that are no message, or no message at all | archive |
| an id without a hash, in pending or active | nowhere: it is taken off |
| a good task whose id stands in pending twice, or in pending and retry | it runs once |
| a good task in active that nobody watches over | it runs again when a lease has passed |

| row | what happens besides |
|---|---|
| F7 | nothing |
| F7b | undecodable entries with leases that have ended come first, and a worker is killed |
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from aioasynq import keys
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from tests.faults.deaths import kill_one
from tests.faults.harness import QUEUE, Fault, System
from tests.faults.ledger import KINDS
from tests.faults.load import MIX, Load

_EACH = 5
_BYTES = b"\xff\xfe this is no message"


async def poison(system: System) -> None:
    """Put bad entries among the good ones, where a worker finds them at any moment."""
    await system.next_burst()
    async with Redis.from_url(system.server.url) as redis:
        for n in range(_EACH):
            async with redis.pipeline(transaction=True) as pipe:  # or somebody sees an id that has no hash yet
                _put(pipe, system, f"junk-{n}", _BYTES, "pending")
                _put(pipe, system, f"empty-{n}", None, "pending")
                _put(pipe, system, f"quick-twin{n}", _message(f"quick-twin{n}"), "pending")
                pipe.lpush(keys.pending(QUEUE), f"quick-twin{n}", f"ghost-{n}")
                pipe.lpush(keys.active(QUEUE), f"ghost-a{n}")
                _put(pipe, system, f"quick-double{n}", _message(f"quick-double{n}"), "pending")
                pipe.zadd(keys.retry(QUEUE), {f"quick-double{n}": 1000.5})
                _put(pipe, system, f"quick-orphan{n}", _message(f"quick-orphan{n}"), "active")
                await pipe.execute()
            system.struck += 1
            await asyncio.sleep(0.1)


async def poison_and_kill(system: System) -> None:
    """Leave entries that nobody can read where a recovery comes first, and give it something to recover."""
    async with Redis.from_url(system.server.url) as redis, redis.pipeline(transaction=True) as pipe:
        for n in range(_EACH):
            _put(pipe, system, f"junk-l{n}", _BYTES, "active")
            _put(pipe, system, f"junk-p{n}", _BYTES, "pending")
            pipe.zadd(keys.lease(QUEUE), {f"junk-l{n}": 1000.5 + n})
        await pipe.execute()
    await kill_one(system)


def _put(pipe: Redis, system: System, task_id: str, message: bytes | None, place: str) -> None:
    """An entry as a program could leave it that is none of ours."""
    fields: dict[str, bytes | str] = {"state": place}
    if message is not None:
        fields["msg"] = message
    pipe.hset(keys.task(QUEUE, task_id), mapping=fields)  # type: ignore[arg-type,unused-ignore]
    pipe.lpush(keys.pending(QUEUE) if place == "pending" else keys.active(QUEUE), task_id)
    system.ledger.write(task_id, "ack")


def _message(task_id: str) -> bytes:
    kind = task_id.partition("-")[0]
    assert kind in KINDS
    return encode_task(TaskMessage(type=kind, payload=b"5", id=task_id, queue=QUEUE, retry=25))


_EXPECTED = ("goes to the archive", "cannot be stored as JSON")

ROWS = (
    Fault(
        name="F7",
        text="bad handlers, bad results, bad bytes, ids without tasks",
        strike=poison,
        load=Load(span=3.0, mix=MIX | {"raises": 8, "odd": 8, "nobody": 8}),
        lease=2.0,
        proxied=False,
        expected=_EXPECTED,
        rescues=True,
        slow="leases have to run out",
    ),
    Fault(
        name="F7b",
        text="entries that nobody can read come first, then SIGKILL of a worker",
        strike=poison_and_kill,
        load=Load(span=3.0, slow=10),
        lease=2.0,
        proxied=False,
        expected=_EXPECTED,
        slow="leases have to run out",
    ),
)
