"""``aioasynq doctor``: is all well with Redis and its queues? What is not, and what to do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aioasynq.cli.confirm import Yes, confirm
from aioasynq.cli.connect import run
from aioasynq.cli.exits import REFUSED
from aioasynq.cli.output import Json, many, show_json
from aioasynq.errors import AioasynqError
from aioasynq.inspector import Inspector
from aioasynq.logs import clean
from aioasynq.rdb.inspection import Seen, place_of
from aioasynq.rdb.rdb import MIN_VERSION, RDB
from aioasynq.task import TaskState

OK, WARN, FAIL = "ok", "warn", "fail"
CLOCK_WARN, CLOCK_FAIL = 1.0, 30.0  #: seconds; Go's servers compare their own clocks, and give up at 30
LOOKED_AT = 100_000  #: ids of one place that are looked at


@dataclass
class Finding:
    """What one check found."""

    check: str
    verdict: str
    text: str
    advice: str = ""
    repair: Callable[[], Awaitable[Any]] | None = None
    then: str = OK  #: verdict once it is repaired


def doctor(
    ctx: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Look whether all is well with Redis and its queues, and say what to do."""
    if fix:
        confirm("repair what is found, and delete ids without tasks and tasks that stand nowhere", yes)

    async def work(inspector: Inspector, rdb: RDB) -> list[Finding]:
        found: list[Finding] = []
        async for finding in examine(inspector, rdb):
            if fix and finding.repair is not None:
                done = await finding.repair()
                finding.verdict, finding.advice = finding.then, f"repaired{f': {done}' if done else ''}"
            found.append(finding)
            if not as_json:
                _say(finding)
        return found

    found = run(ctx, work)
    if as_json:
        show_json([{"check": f.check, "verdict": f.verdict, "text": f.text, "advice": f.advice} for f in found])
    else:
        counts = {verdict: sum(f.verdict == verdict for f in found) for verdict in (OK, WARN, FAIL)}
        typer.echo(f"\n{counts[OK]} ok, {counts[WARN]} to look at, {counts[FAIL]} wrong")
    if any(finding.verdict == FAIL for finding in found):
        raise typer.Exit(REFUSED)


def _say(finding: Finding) -> None:
    colour = {OK: typer.colors.GREEN, WARN: typer.colors.YELLOW, FAIL: typer.colors.RED}[finding.verdict]
    typer.echo(f"{typer.style(f'{finding.verdict:<4}', fg=colour)}  {clean(f'{finding.check}: {finding.text}')}")
    if finding.advice:
        typer.echo(f"      {clean(finding.advice)}")


async def examine(inspector: Inspector, rdb: RDB) -> AsyncIterator[Finding]:
    """All checks, one after the other."""
    await rdb.ping()
    yield Finding("connection", OK, rdb.address)
    try:
        info = await rdb.info()
    except AioasynqError as exc:
        info = {}
        yield Finding(
            "server", WARN, f"INFO is refused: {exc}", "allow +info to this user to have the server looked at"
        )
    if info:
        for finding in _server(info):
            yield finding
    yield await _clock(rdb)
    stale = await rdb.count_stale_servers()
    servers = await inspector.servers()  # who looks takes the records of dead ones away, as Go does
    gone = f", and the records of {stale} dead ones taken away" if stale else ""
    yield Finding("servers", OK, f"{len(servers)} live{gone}")
    for queue in await inspector.queues():
        async for finding in _queue(inspector, rdb, queue, served=any(queue in server.queues for server in servers)):
            yield finding


def _server(info: dict[str, str]) -> list[Finding]:
    version = info.get("redis_version", "?")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    wanted = ".".join(map(str, MIN_VERSION))
    old = Finding("version", FAIL, f"Redis {version}", f"Redis {wanted} or later is needed")
    found = [old if numbers < MIN_VERSION else Finding("version", OK, f"Redis {version}")]
    if info.get("aof_enabled") == "1":
        found.append(Finding("persistence", OK, "the append-only file is on"))
    else:
        text = "snapshots only: what came after the last one is lost when Redis dies"
        found.append(Finding("persistence", WARN, text, "set appendonly yes, and appendfsync always to lose nothing"))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        found.append(Finding("eviction", OK, policy))
    else:
        text = f"maxmemory-policy is {policy}: Redis may throw tasks away when its memory is full"
        found.append(Finding("eviction", FAIL, text, "set maxmemory-policy noeviction"))
    return found


async def _clock(rdb: RDB) -> Finding:
    before = time.time()
    theirs = await rdb.now()
    after = time.time()
    off = theirs - (before + after) / 2
    text = f"this machine and Redis are {abs(off):.2f} s apart"
    if abs(off) < CLOCK_WARN:
        return Finding("clock", OK, text)
    advice = "set the clocks by NTP; Python's servers go by Redis's clock, Go's by their own"
    return Finding("clock", FAIL if abs(off) >= CLOCK_FAIL else WARN, text, advice)


async def _queue(inspector: Inspector, rdb: RDB, queue: str, *, served: bool) -> AsyncIterator[Finding]:
    name = f"queue {queue!r}"
    stats = await inspector.get_queue_info(queue, memory=False)
    found: list[Finding] = []
    if stats.paused and stats.pending:
        found.append(
            Finding(name, WARN, f"is paused with {many(stats.pending, 'task')}", f"aioasynq queue resume {queue}")
        )
    if not served and stats.pending + stats.scheduled + stats.retry:
        found.append(
            Finding(name, WARN, f"has {many(stats.size, 'task')} and no server", "start a worker that has this queue")
        )
    ghosts = {place: ids for place in _PLACES if (ids := await _ghosts(rdb, queue, place))}
    if ghosts:
        count = sum(map(len, ghosts.values()))
        where = ", ".join(str(place) for place in ghosts)
        found.append(
            Finding(
                name, FAIL, f"{many(count, 'id')} without a task in {where}", "doctor --fix takes them out",
                lambda: _take_out(rdb, queue, ghosts),
            )
        )  # fmt: skip
    orphaned = [info.id async for info in inspector.tasks(queue, TaskState.ACTIVE) if info.is_orphaned]
    if orphaned:
        advice = "a server of the queue takes them back within half a minute; without one, start one"
        found.append(
            Finding(
                name,
                WARN,
                f"{many(len(orphaned), 'task')} whose worker is not heard of",
                advice,
                lambda: _repair(rdb, queue),
                then=WARN,  # whoever takes them back is yet to come
            )
        )
    if homeless := await rdb.sweep(queue, dry=True):
        text = f"{homeless:,} tasks or locks that stand nowhere, and block their ids"
        found.append(Finding(name, FAIL, text, "doctor --fix deletes them", lambda: rdb.sweep(queue)))
    if unlisted := await rdb.unlisted_groups(queue):
        text = f"groups that nobody looks at: {', '.join(unlisted)}"
        found.append(Finding(name, FAIL, text, "doctor --fix lists them again", lambda: _list_again(rdb, queue)))
    for finding in found or [Finding(name, OK, many(stats.size, "task"))]:
        yield finding


_PLACES = ("pending", "scheduled", "retry", "archived", "completed")


async def _ghosts(rdb: RDB, queue: str, place: str) -> list[str]:
    """Ids in one place that have no hash."""
    missing: list[str] = []
    seen, looked_at = Seen(), 0
    while looked_at < LOOKED_AT:
        ids, seen = await rdb.next_ids(queue, place, None, seen)
        if not ids:
            break
        looked_at += len(ids)
        found = await rdb.read_tasks(queue, ids)
        gone = [task_id for task_id, each in zip(ids, found, strict=True) if each is None]
        missing += await rdb.strays(queue, place_of(queue, place)[0], gone, dry=True)
    return missing


async def _repair(rdb: RDB, queue: str) -> str:
    """Bring active tasks and their leases into agreement; a server then takes them back."""
    repaired = await rdb.repair(queue)
    return (
        f"{len(repaired.strays)} taken out, {len(repaired.adopted)} given a lease; "
        "a server of the queue has to take them back"
    )


async def _take_out(rdb: RDB, queue: str, ghosts: dict[str, list[str]]) -> str:
    count = sum([len(await rdb.strays(queue, place_of(queue, place)[0], ids)) for place, ids in ghosts.items()])
    return f"{count:,} taken out"


async def _list_again(rdb: RDB, queue: str) -> str:
    return f"{len(await rdb.unlisted_groups(queue, dry=False)):,} listed again"
