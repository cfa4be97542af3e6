"""``aioasynq task``: see tasks, run, archive, delete, enqueue, cancel them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from aioasynq.cli import given
from aioasynq.cli.confirm import Yes, confirm
from aioasynq.cli.connect import run
from aioasynq.cli.exits import refuse
from aioasynq.cli.output import (
    Json,
    Page,
    Size,
    ago,
    moment,
    pairs,
    payload,
    progress,
    show_json,
    show_line,
    step_text,
    table,
    title,
    until,
)
from aioasynq.client import Client
from aioasynq.errors import TaskNotFoundError
from aioasynq.inspector import Inspector
from aioasynq.inspector.base import check_page, check_state
from aioasynq.logs import clean
from aioasynq.rdb.rdb import RDB
from aioasynq.task import Task, TaskInfo, TaskState

app = typer.Typer(no_args_is_help=True, help="See tasks, run, archive, delete, enqueue and cancel them.")

Queue = Annotated[str, typer.Option("--queue", "-q", help="The queue.")]
Id = Annotated[str, typer.Option("--id", "-i", help="The id of the task.")]
State = Annotated[
    str,
    typer.Option(
        "--state",
        "-s",
        help=f"One of {', '.join(TaskState)}.",
        autocompletion=lambda: [str(state) for state in TaskState],
    ),
]
Group = Annotated[str | None, typer.Option("--group", "-g", help="The group, with the state aggregating.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this type; mail:* for all that begin so.")]
Payload = Annotated[str | None, typer.Option("--payload", help="Only tasks whose payload contains this.")]
Error = Annotated[str | None, typer.Option("--error", help="Only tasks whose last error contains this.")]
Older = Annotated[
    str | None,
    typer.Option(
        "--older-than", metavar="DURATION", help="Only tasks that have been in this state so long, as 90 or 1h30m."
    ),
]


@app.command("list", short_help="List tasks of one state.")
@app.command("ls", hidden=True)
def list_(
    ctx: typer.Context,
    queue: Queue,
    state: State,
    group: Group = None,
    page: Page = "1",
    size: Size = "30",
    type_: Type = None,
    contains: Payload = None,
    error: Error = None,
    older: Older = None,
    as_json: Json = False,
) -> None:
    """List tasks of one state; with filters, the page counts those that match."""
    number, count = given.page(page, size)
    wanted = _filters(type_, contains, error, older)
    _check_group(state, group)

    async def work(inspector: Inspector, _: RDB) -> list[TaskInfo]:
        check_state(state, group)
        start = check_page(number, count)
        if not wanted:
            more = (group,) if group is not None else ()
            infos: list[TaskInfo] = await getattr(inspector, f"list_{state}_tasks")(
                queue, *more, page=number, page_size=count
            )
            return infos
        found: list[TaskInfo] = []
        async for info in inspector.tasks(queue, state, group=group, **wanted):
            found.append(info)
            if len(found) == start + count:
                break
        return found[start:]

    infos = run(ctx, work)
    if as_json:
        show_json(infos)
    elif infos:
        more = _COLUMNS[TaskState(state)]
        now = datetime.now(UTC)
        rows = [
            (info.id, info.type, payload(info.payload), *(cell(info, now) for cell in more.values())) for info in infos
        ]
        table(("ID", "Type", "Payload", *more), rows)
    elif group is not None:
        typer.echo(f'No aggregating tasks in group "{group}"')
    else:
        typer.echo(f'No {state} tasks in "{queue}" queue')


_Cell = Callable[[TaskInfo, datetime], object]
_COLUMNS: dict[TaskState, dict[str, _Cell]] = {
    TaskState.ACTIVE: {"Orphaned": lambda info, _: "yes" if info.is_orphaned else ""},
    TaskState.PENDING: {},
    TaskState.SCHEDULED: {"Process In": lambda info, now: until(info.next_process_at, now)},
    TaskState.RETRY: {
        "Next Retry": lambda info, now: until(info.next_process_at, now),
        "Last Error": lambda info, _: info.last_err,
        "Last Failed": lambda info, now: ago(info.last_failed_at, now),
        "Retried": lambda info, _: info.retried,
        "Max Retry": lambda info, _: info.max_retry,
    },
    TaskState.ARCHIVED: {
        "Last Failed": lambda info, now: ago(info.last_failed_at, now),
        "Last Error": lambda info, _: info.last_err,
    },
    TaskState.COMPLETED: {
        "CompletedAt": lambda info, _: moment(info.completed_at),
        "Result": lambda info, _: payload(info.result or b""),
    },
    TaskState.AGGREGATING: {"Group": lambda info, _: info.group or ""},
}


@app.command()
def inspect(ctx: typer.Context, queue: Queue, task_id: Id, as_json: Json = False) -> None:
    """Show all that is known of a task."""

    async def work(inspector: Inspector, _: RDB) -> TaskInfo:
        return await inspector.get_task_info(queue, task_id)

    info = run(ctx, work)
    show_json(info) if as_json else _show(info)


@app.command()
def watch(ctx: typer.Context, queue: Queue, task_id: Id, as_json: Json = False) -> None:
    """Show how far a task is, as its handler says so, until it has ended; exit code 1 when it went to the archive."""

    async def work(inspector: Inspector, rdb: RDB) -> TaskInfo | None:
        await inspector.get_task_info(queue, task_id)
        async with Client(rdb) as client:
            async for step in client.watch(task_id, queue=queue):
                show_line({"progress": step}) if as_json else typer.echo(clean(step_text(step)))
        try:
            return await inspector.get_task_info(queue, task_id)
        except TaskNotFoundError:  # as most are that have succeeded
            return None

    info = run(ctx, work)
    if as_json:
        show_line({"state": None if info is None else info.state, "last_err": "" if info is None else info.last_err})
    elif info is None:
        typer.echo("the task has ended and is gone")
    else:
        typer.echo(clean(f"the task is {info.state}{f': {info.last_err}' if info.last_err else ''}"))
    if info is not None and info.state is TaskState.ARCHIVED:
        raise typer.Exit(1)


@app.command()
def find(ctx: typer.Context, task_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Look for a task in all queues."""

    async def work(inspector: Inspector, _: RDB) -> list[TaskInfo]:
        return await inspector.find_task(task_id)

    infos = run(ctx, work)
    if as_json:
        show_json(infos)
    elif infos:
        table(("Queue", "State", "Type", "Payload"), [(i.queue, i.state, i.type, payload(i.payload)) for i in infos])
    else:
        refuse(f"no queue has a task {task_id!r}", 1)


@app.command()
def explain(ctx: typer.Context, queue: Queue, task_id: Id, as_json: Json = False) -> None:
    """Say why a task does not run."""

    async def work(inspector: Inspector, _: RDB) -> Any:
        return await inspector.explain(queue, task_id)

    why = run(ctx, work)
    show_json(why) if as_json else typer.echo("\n".join(map(clean, why.reasons)))


@app.command("run")
def run_(ctx: typer.Context, queue: Queue, task_id: Id, as_json: Json = False) -> None:
    """Make a task pending."""
    _one(ctx, "run_task", queue, task_id, "task is now pending", as_json)


@app.command()
def archive(ctx: typer.Context, queue: Queue, task_id: Id, as_json: Json = False) -> None:
    """Archive a task."""
    _one(ctx, "archive_task", queue, task_id, "task archived", as_json)


@app.command()
@app.command("remove", hidden=True)
@app.command("rm", hidden=True)
def delete(ctx: typer.Context, queue: Queue, task_id: Id, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a task."""
    confirm(f"delete the task {task_id!r} of the queue {queue!r}", yes)
    _one(ctx, "delete_task", queue, task_id, "task deleted", as_json)


@app.command()
def reschedule(
    ctx: typer.Context,
    queue: Queue,
    task_id: Id,
    process_in: Annotated[
        str | None, typer.Option("--process_in", metavar="DURATION", help="From now, as 90 or 1h30m.")
    ] = None,
    process_at: Annotated[
        str | None, typer.Option("--process_at", metavar="TIME", help="As in 2030-01-31T08:00:00Z.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set another time for a task."""
    if (process_in is None) == (process_at is None):
        refuse("give one of --process_in and --process_at, as in --process_in 10m")
    when: dict[str, Any] = {
        "process_in": given.seconds("--process_in", process_in), "process_at": _time("--process_at", process_at),
    }  # fmt: skip
    _one(ctx, "reschedule_task", queue, task_id, "task is rescheduled", as_json, **when)


@app.command("update-payload")
def update_payload(
    ctx: typer.Context,
    queue: Queue,
    task_id: Id,
    text: Annotated[str, typer.Option("--payload", "-l", help="The new payload.")],
    as_json: Json = False,
) -> None:
    """Give a task another payload."""
    _one(ctx, "update_task_payload", queue, task_id, "task has another payload", as_json, payload=text)


@app.command()
def move(
    ctx: typer.Context,
    queue: Queue,
    task_id: Id,
    to: Annotated[str, typer.Option("--to", help="The other queue.")],
    as_json: Json = False,
) -> None:
    """Carry a task over to another queue."""
    _one(ctx, "move_task", queue, task_id, f'task moved to queue "{to}"', as_json, to=to)


@app.command()
def cancel(ctx: typer.Context, ids: Annotated[list[str], typer.Argument(metavar="ID…")], as_json: Json = False) -> None:
    """Ask servers to cancel tasks that run."""

    async def work(inspector: Inspector, _: RDB) -> dict[str, int]:
        return {task_id: await inspector.cancel_processing(task_id) for task_id in ids}

    heard = run(ctx, work)
    if as_json:
        show_json([{"id": task_id, "servers": count} for task_id, count in heard.items()])
        return
    for task_id, count in heard.items():
        typer.echo(f"Sent cancelation signal for task {task_id}{'' if count else ', but no server listens'}")


@app.command()
def enqueue(
    ctx: typer.Context,
    type_: Annotated[str, typer.Option("--type_name", "-t", help="The type.")],
    text: Annotated[str, typer.Option("--payload", "-l", help="The payload.")],
    max_retry: Annotated[str | None, typer.Option("--retry", metavar="N", help="How often it may be retried.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The queue.")] = None,
    task_id: Annotated[str | None, typer.Option("--id", "-i", help="Its id.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="For one attempt, as 90 or 1h30m.")] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="As in 2030-01-31T08:00:00Z.")] = None,
    unique: Annotated[str | None, typer.Option(metavar="DURATION", help="No other like it for so long.")] = None,
    process_at: Annotated[str | None, typer.Option("--process_at", metavar="TIME", help="When to run it.")] = None,
    process_in: Annotated[
        str | None, typer.Option("--process_in", metavar="DURATION", help="From now, as 90 or 1h30m.")
    ] = None,
    retention: Annotated[str | None, typer.Option(metavar="DURATION", help="To keep it once it has succeeded.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="A group to join.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="A header; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Enqueue a task."""
    options: dict[str, Any] = {
        "max_retry": given.whole("--retry", max_retry, least=0), "queue": queue, "task_id": task_id,
        "timeout": given.seconds("--timeout", timeout),
        "deadline": _time("--deadline", deadline), "unique": given.seconds("--unique", unique),
        "process_at": _time("--process_at", process_at), "process_in": given.seconds("--process_in", process_in),
        "retention": given.seconds("--retention", retention), "group": group, "headers": given.headers(header),
    }  # fmt: skip

    async def work(_: Inspector, rdb: RDB) -> TaskInfo:
        async with Client(rdb) as client:
            return await client.enqueue(Task(type_, text), **options)

    info = run(ctx, work)
    show_json(info) if as_json else typer.echo(clean(f"Enqueued task {info.id} to queue {info.queue}"))


@app.command()
def runall(
    ctx: typer.Context, queue: Queue, state: State, group: Group = None, type_: Type = None,
    contains: Payload = None, error: Error = None, older: Older = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make all tasks of a state pending, or those that match."""
    _all(
        ctx, "run_tasks", queue, state, group, _filters(type_, contains, error, older), "tasks are now pending", as_json
    )


@app.command()
def archiveall(
    ctx: typer.Context, queue: Queue, state: State, group: Group = None, type_: Type = None,
    contains: Payload = None, error: Error = None, older: Older = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Archive all tasks of a state, or those that match."""
    _all(ctx, "archive_tasks", queue, state, group, _filters(type_, contains, error, older), "tasks archived", as_json)


@app.command()
def deleteall(
    ctx: typer.Context, queue: Queue, state: State, group: Group = None, type_: Type = None,
    contains: Payload = None, error: Error = None, older: Older = None, yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Delete all tasks of a state, or those that match."""
    wanted = _filters(type_, contains, error, older)
    confirm(
        f"delete {'the' if wanted else 'all'} {state} tasks of the queue {queue!r}{' that match' if wanted else ''}",
        yes,
    )
    _all(ctx, "delete_tasks", queue, state, group, wanted, "tasks deleted", as_json)


def _one(ctx: typer.Context, call: str, queue: str, task_id: str, said: str, as_json: bool, **more: object) -> None:
    async def work(inspector: Inspector, _: RDB) -> None:
        await getattr(inspector, call)(queue, task_id, **more)

    run(ctx, work)
    show_json({"queue": queue, "id": task_id, "done": said}) if as_json else typer.echo(said)


def _all(
    ctx: typer.Context, call: str, queue: str, state: str, group: str | None, wanted: dict[str, Any], said: str,
    as_json: bool,
) -> None:  # fmt: skip
    _check_group(state, group)

    async def work(inspector: Inspector, _: RDB) -> int:
        count: int = await getattr(inspector, call)(queue, state, group=group, progress=progress(as_json), **wanted)
        return count

    count = run(ctx, work)
    show_json({"queue": queue, "state": state, "count": count}) if as_json else typer.echo(f"{count} {said}")


def _check_group(state: str, group: str | None) -> None:
    if state == TaskState.AGGREGATING and group is None:
        refuse("flag --group is required for aggregating tasks")


def _filters(type_: str | None, contains: str | None, error: str | None, older: str | None) -> dict[str, Any]:
    wanted = {"type": type_, "payload": contains, "error": error, "older_than": given.seconds("--older-than", older)}
    return {name: value for name, value in wanted.items() if value is not None}


def _time(option: str, text: str | None) -> datetime | None:
    """RFC 3339."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        refuse(f"{option} must be a moment with its zone, as in 2030-01-31T08:00:00Z; got {text!r}")
    return found


def _show(info: TaskInfo) -> None:
    now = datetime.now(UTC)
    next_time = "now" if info.state is TaskState.PENDING else "n/a"
    if info.next_process_at is not None and info.state is not TaskState.PENDING:
        next_time = f"{moment(info.next_process_at)} ({until(info.next_process_at, now)})"
    title("Task Info")
    rows: list[tuple[str, object]] = [
        ("Queue", info.queue), ("ID", info.id), ("Type", info.type), ("State", info.state),
        ("Retried", f"{info.retried}/{info.max_retry}"), ("Next process time", next_time),
        ("Timeout", f"{info.timeout:g} s" if info.timeout else "n/a"), ("Deadline", moment(info.deadline)),
        ("Retention", f"{info.retention:g} s" if info.retention else "n/a"), ("Group", info.group or "n/a"),
    ]  # fmt: skip
    if info.completed_at is not None:
        rows.append(("Completed at", moment(info.completed_at)))
    rows += [(f"Header {name}", value) for name, value in sorted(info.headers.items())]
    if info.progress is not None:
        rows.append(("Progress", step_text(info.progress)))
    rows.append(("Payload", payload(info.payload)))
    if info.result is not None:
        rows.append(("Result", payload(info.result)))
    pairs(rows)
    if info.last_err:
        title("\nLast Failure")
        pairs([("Failed at", moment(info.last_failed_at)), ("Error message", info.last_err)])
