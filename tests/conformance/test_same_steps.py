"""The same steps, played by Go's operations and by ours, leave the same in Redis."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from aioasynq import keys
from aioasynq.proto.codec import decode_task, encode_task
from tests.conformance.go_side import GoClient, GoPlayer
from tests.conformance.steps import Step, normalised, play_go, play_python, state_of, with_moments

Q = "q"
TWO = ["q", "low"]


def message(id_: str, **members: Any) -> dict[str, Any]:
    return {"type": "t", "payload": b"p", "id": id_, "queue": Q, "retry": 25, "timeout": 1800, **members}


def unique(id_: str, payload: bytes | None = b"p", **members: Any) -> dict[str, Any]:
    return message(id_, payload=payload, unique_key=keys.unique(members.get("queue", Q), "t", payload), **members)


def clock(now: float) -> Step:
    return {"op": "set_clock", "now": now}


def enqueue(*ids: str, **members: Any) -> list[Step]:
    return [{"op": "enqueue", "msg": message(id_, **members)} for id_ in ids]


def dequeue(times: int = 1, queues: list[str] | None = None) -> list[Step]:
    return [{"op": "dequeue", "queues": queues or [Q]}] * times


def take(id_: str, **members: Any) -> list[Step]:
    return [*enqueue(id_, **members), *dequeue()]


def take_unique(id_: str, **members: Any) -> list[Step]:
    return [{"op": "enqueue_unique", "msg": unique(id_, **members), "ttl": 60}, *dequeue()]


def done(id_: str) -> Step:
    return {"op": "done", "msg": id_}


def complete(id_: str) -> Step:
    return {"op": "mark_as_complete", "msg": id_}


def requeue(id_: str) -> Step:
    return {"op": "requeue", "msg": id_}


def retry(id_: str, at: float = 60, error: str = "boom", *, is_failure: bool = True) -> Step:
    return {"op": "retry", "msg": id_, "process_at": at, "error": error, "is_failure": is_failure}


def kill(id_: str, error: str = "dead") -> Step:
    return {"op": "kill", "msg": id_, "error": error}


def group(id_: str, name: str = "g", **members: Any) -> Step:
    return {"op": "add_to_group", "msg": message(id_, group_key=name, **members), "group": name}


def schedule(id_: str, at: float = 60, **members: Any) -> Step:
    return {"op": "schedule", "msg": message(id_, **members), "process_at": at}


FORWARD: Step = {"op": "check_and_enqueue", "queues": [Q]}
EXPIRE: Step = {"op": "delete_expired_completed_tasks", "queue": Q, "batch_size": 2}
SERVER: dict[str, Any] = {
    "host": "h", "pid": 3, "server_id": "s", "started": 1767225600, "queues": {"q": 3, "low": 1},
    "concurrency": 10, "strict_priority": True, "status": "active", "active_worker_count": 1,
}  # fmt: skip
WORKER: dict[str, Any] = {
    "host": "h", "pid": 3, "server_id": "s", "id": "a", "type": "t", "payload": b"p", "queue": Q,
    "started": 1767225601, "deadline": 1767227401,
}  # fmt: skip


def expired(cutoff: float) -> Step:
    return {"op": "list_lease_expired", "cutoff": cutoff, "queues": TWO}


def held_by_go(step: Step) -> list[Step]:
    """*step* on a task that is held, and on one that waits, is done, or was never taken."""
    return [
        *take("a"), step | {"msg": "a"}, step | {"msg": "a"}, *enqueue("b"), step | {"msg": "b"},
        schedule("c"), step | {"msg": "c"},
    ]  # fmt: skip


STORIES: dict[str, list[Step]] = {
    # into a queue
    "enqueue": enqueue("a", "b", "c"),
    "enqueue in two queues": [*enqueue("a"), *enqueue("a", queue="low")],
    "enqueue everything": enqueue(
        "ä{1}", type="a:b", payload=bytes(range(256)), headers={"k": "v", "": ""}, timeout=90, deadline=1893456000,
        retention=86400, retry=0,
    ),
    "enqueue nothing": enqueue("a", payload=None, retry=0, timeout=0),
    "an id twice": [*enqueue("a", "a"), *enqueue("a", payload=b"other")],
    "an id that is scheduled": [schedule("a"), *enqueue("a"), schedule("a", 90), group("a")],
    "an id that runs": [*take("a"), *enqueue("a"), schedule("a")],
    "an id that is completed": [*take("a", retention=60), complete("a"), *enqueue("a")],
    "enqueue unique": [
        {"op": "enqueue_unique", "msg": unique("a"), "ttl": 60},
        {"op": "enqueue_unique", "msg": unique("b"), "ttl": 60},
        {"op": "enqueue_unique", "msg": unique("c", b""), "ttl": 3600},
        {"op": "enqueue_unique", "msg": unique("d", None), "ttl": 1000},
        {"op": "enqueue_unique", "msg": unique("e", queue="low"), "ttl": 60},
    ],
    "enqueue unique with an id that is taken": [
        *enqueue("a"), {"op": "enqueue_unique", "msg": unique("a"), "ttl": 60},
    ],
    "schedule": [schedule("a", 60), schedule("b", 0.3), schedule("c", -1), schedule("d", 86400 * 3650)],
    "schedule unique": [
        {"op": "schedule_unique", "msg": unique("a"), "process_at": 60, "ttl": 120},
        {"op": "schedule_unique", "msg": unique("b"), "process_at": 60, "ttl": 120},
        {"op": "enqueue_unique", "msg": unique("c"), "ttl": 60},
        *enqueue("d"),
        {"op": "schedule_unique", "msg": unique("d", b"other"), "process_at": 60, "ttl": 120},
    ],
    "groups": [group("a"), clock(3), group("b"), group("c", "h"), group("d", "ö: {x}"), group("a", "h")],
    "groups, unique": [
        {"op": "add_to_group_unique", "msg": unique("a", group_key="g"), "group": "g", "ttl": 60},
        {"op": "add_to_group_unique", "msg": unique("b", group_key="g"), "group": "g", "ttl": 60},
        {"op": "add_to_group_unique", "msg": unique("a", b"other", group_key="g"), "group": "g", "ttl": 60},
    ],
    # out of a queue
    "first in, first out": [*enqueue("a", "b", "c"), *dequeue(2), clock(7), *dequeue(2)],
    "nothing to take": [*dequeue(), *enqueue("a"), *dequeue(2)],
    "queues in their order": [*enqueue("a", queue="low"), *enqueue("b"), *dequeue(3, TWO)],
    "a paused queue": [
        *enqueue("a"), *enqueue("b", queue="low"), {"op": "redis", "command": ["SET", keys.paused(Q), "1"]},
        *dequeue(2, TWO), {"op": "redis", "command": ["DEL", keys.paused(Q)]}, *dequeue(1, TWO),
    ],
    # ends
    "done": [*enqueue("a", "b"), *dequeue(2), done("b"), done("a")],
    "done only when it is held": held_by_go(done("a")),
    "done, unique": [*take_unique("a"), done("a"), *take_unique("b")],
    "done after somebody else has taken the lock": [
        *take_unique("a"), {"op": "redis", "command": ["DEL", keys.unique(Q, "t", b"p")]},
        {"op": "enqueue_unique", "msg": unique("b"), "ttl": 60}, done("a"),
    ],
    "done after a result": [*take("a"), {"op": "write_result", "queue": Q, "id": "a", "data": b"\x00r"}, done("a")],
    "complete": [*take("a", retention=60), clock(5), complete("a")],
    "complete only when it is held": held_by_go(complete("a")),
    "complete, unique": [*take_unique("a", retention=60), complete("a"), *take_unique("b")],
    "complete with a result": [
        *take("a", retention=60, headers={"k": "v"}),
        {"op": "write_result", "queue": Q, "id": "a", "data": b"1"},
        {"op": "write_result", "queue": Q, "id": "a", "data": b""},
        {"op": "write_result", "queue": Q, "id": "a", "data": b"\x00\xff"},
        complete("a"),
    ],
    "requeue": [*enqueue("a", "b"), *dequeue(), clock(2), requeue("a"), *dequeue(), *dequeue(), requeue("b")],
    "requeue only when it is held": held_by_go(requeue("a")),
    "requeue, unique": [*take_unique("a"), requeue("a"), *dequeue(), done("a")],
    "retry": [*take("a", headers={"k": "v"}), clock(5), retry("a")],
    "retry only when it is held": held_by_go(retry("a")),
    "retry without a failure": [*take("a"), retry("a", is_failure=False)],
    "retry without a text": [*take("a"), retry("a", error="")],
    "retry with a long text": [*take("a"), retry("a", error="größer\x00 " * 1000)],
    "retry, unique": [*take_unique("a"), retry("a"), *take_unique("b")],
    "retry again and again": [
        *take("a"),
        *(step for n in range(4) for step in (
            retry("a", 60 * n + 30, f"boom {n}", is_failure=n != 2), clock(60 * n + 40), FORWARD, *dequeue())),
        kill("a"),
    ],
    "kill": [*take("a", retention=60), clock(5), kill("a")],
    "kill only when it is held": held_by_go(kill("a")),
    "kill, unique": [*take_unique("a"), kill("a")],
    "counters": [
        *enqueue("a", "b", "c", "d", retention=60), *dequeue(4), done("a"), complete("b"), retry("c"), kill("d"),
    ],
    # upkeep
    "forward": [
        schedule("a", 60), schedule("b", 30), schedule("c", 90), schedule("d", 60, queue="low"), FORWARD, clock(75),
        FORWARD, *dequeue(3),
    ],
    "forward many": [*(schedule(f"{n}", 10 + n) for n in range(250)), clock(220), FORWARD],
    "forward retries": [*take("a"), *take("b"), retry("a"), retry("b", 90, is_failure=False), clock(75), FORWARD],
    "forward a task that was in a group": [
        group("a"), {"op": "redis", "command": ["ZREM", keys.group(Q, "g"), "a"]},
        {"op": "redis", "command": ["SREM", keys.groups(Q), "g"]},
        {"op": "redis", "command": ["LPUSH", keys.pending(Q), "a"]},
        {"op": "redis", "command": ["HSET", keys.task(Q, "a"), "state", "pending"]},
        *dequeue(), retry("a"), clock(75), FORWARD,
    ],
    "extend leases": [
        *enqueue("a", "b", "c"), *dequeue(2), clock(10), {"op": "extend_lease", "queue": Q, "ids": ["a"]}, clock(20),
        {"op": "extend_lease", "queue": Q, "ids": ["b", "c", "nobody"]},
    ],
    "a lease that was extended after its end": [
        *take("a"), clock(100), {"op": "extend_lease", "queue": Q, "ids": ["a"]}, done("a"),
    ],
    "leases that ran out": [
        *enqueue("a", "b"), *dequeue(), clock(10), *dequeue(), *enqueue("c", queue="low"), *dequeue(1, ["low"]),
        expired(20), clock(35), expired(35), clock(45), expired(45), done("a"), expired(45),
    ],
    "recovered": [*take("a"), clock(70), expired(40), retry("a", 75, "lease"), clock(80), FORWARD, *dequeue()],
    "expired results": [
        *enqueue("a", "b", "c", "d", "e", retention=60), *dequeue(5), *map(complete, "abc"), clock(30),
        *map(complete, "de"), clock(75), EXPIRE,
    ],
    # servers
    "a server": [
        {"op": "write_process_info", "info": SERVER, "workers": [WORKER], "ttl": 10}, clock(3),
        {"op": "write_process_info", "info": SERVER | {"status": "stopped"}, "workers": [], "ttl": 20},
    ],
    "a server that ends": [
        {"op": "write_process_info", "info": SERVER, "workers": [WORKER], "ttl": 10},
        {"op": "write_process_info", "info": SERVER | {"server_id": "t"}, "workers": [WORKER, WORKER | {"id": "b"}],
         "ttl": 10},
        {"op": "clear_process_info", "host": "h", "pid": 3, "server_id": "s"},
    ],
}  # fmt: skip


@pytest.fixture
def start() -> float:
    """When a story begins: now, so that lives of keys count from the same moment, and not on a whole second."""
    return int(time.time()) + 0.25


async def same(go_player: GoPlayer, redis, steps: list[Step]) -> None:
    """Play *steps* on both sides, and compare what each step answered and what is left."""
    theirs = await play_go(go_player, redis, steps)
    left = normalised(await state_of(redis))
    await redis.flushall()
    ours = await play_python(redis, steps)
    assert dict(enumerate(zip(steps, ours, strict=True))) == dict(enumerate(zip(steps, theirs, strict=True)))
    assert normalised(await state_of(redis)) == left


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_the_same_is_left(go_player: GoPlayer, redis, start, story):
    await same(go_player, redis, with_moments([clock(0), *story], start))


def _wander(chance: random.Random) -> list[Step]:
    """Steps at random: what a client, a server and its loops might do, and also what they should not.

    Where Go leaves a lock behind and we do not, the stories above say so; here it would change all that follows, so
    such locks are deleted, and no unique task is enqueued with an id that is taken.
    """
    steps: list[Step] = [clock(0)]
    now = 0.0
    known: dict[str, dict[str, Any]] = {}
    for n in range(150):
        id_ = chance.choice([*known, f"{n}"])
        new = id_ not in known
        members: dict[str, Any] = {
            "retention": chance.choice([0, 60]), "retry": n % 3, "queue": chance.choice(TWO), "headers": {"n": str(n)},
        }  # fmt: skip
        plain = known.get(id_) or message(id_, **members)
        some = unique(id_, chance.choice([None, b"", b"p"]), **members)
        due = now + chance.randrange(1, 60)
        into: list[Step] = [
            {"op": "enqueue", "msg": plain},
            {"op": "schedule", "msg": plain, "process_at": due},
            {"op": "add_to_group", "msg": plain | {"group_key": "g"}, "group": "g"},
        ]
        if new:
            into += [
                {"op": "enqueue_unique", "msg": some, "ttl": 1000},
                {"op": "schedule_unique", "msg": some, "process_at": due, "ttl": 2000},
            ]
        onwards: list[Step] = [
            *dequeue(5, chance.sample(TWO, 2)),
            {"op": "check_and_enqueue", "queues": TWO},
            {"op": "delete_expired_completed_tasks", "queue": Q, "batch_size": 100},
            expired(now - 30),
        ]
        end: list[Step] = [
            done(id_), complete(id_), requeue(id_), kill(id_), retry(id_, due),
            retry(id_, due, "soft", is_failure=False),
            {"op": "extend_lease", "queue": plain["queue"], "ids": [id_]},
        ]  # fmt: skip
        step = chance.choice(chance.choice([into] if new else [into, onwards, end, end]))
        steps.append(step)
        if new:
            known[id_] = step["msg"]
        if step["op"] == "kill" and (lock := plain.get("unique_key")):
            steps.append({"op": "redis", "command": ["DEL", lock]})
        if chance.random() < 0.2:
            now += chance.randrange(1, 20)
            steps.append(clock(now))
    return steps


@pytest.mark.parametrize("seed", range(12))
async def test_the_same_is_left_after_any_steps(go_player: GoPlayer, redis, start, seed):
    await same(go_player, redis, with_moments(_wander(random.Random(seed)), start))


WRITTEN: dict[str, dict[str, Any]] = {
    "the least": {"payload": None},
    "an empty payload": {"payload": b""},
    "bytes": {"payload": bytes(range(256))},
    "all options": {
        "payload": b"p", "task_id": "ä", "headers": {"k": "ö"}, "max_retry": 3, "timeout": 90, "deadline": 1893456000,
        "retention": 86400, "unique": 60,
    },
    "an empty header": {"payload": b"", "headers": {"k": ""}},
    "a group": {"payload": b"", "group": "g"},
    "the largest numbers": {"payload": b"", "max_retry": 2**31 - 1, "deadline": 9223372036, "timeout": 9223372036},
}  # fmt: skip


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
async def test_go_s_bytes_are_our_bytes(go_client: GoClient, redis, queue, options):
    info = await go_client.enqueue("t:ü", queue=queue, **options)
    stored = await redis.hget(keys.task(queue, info["id"]), "msg")
    assert encode_task(decode_task(stored)) == stored


async def test_go_s_rewritten_bytes_are_our_bytes(go_player: GoPlayer, redis, start):
    """Those that Go writes when a task has failed, was archived, or is completed."""
    members = {"headers": {"k": "v"}, "retention": 60}
    story = [
        clock(0),
        *enqueue("a", "b", "c", **members),
        *dequeue(3),
        retry("a", error="größer"),
        kill("b"),
        complete("c"),
    ]
    await play_go(go_player, redis, with_moments(story, start))
    for id_ in "abc":
        stored = await redis.hget(keys.task(Q, id_), "msg")
        assert encode_task(decode_task(stored)) == stored
