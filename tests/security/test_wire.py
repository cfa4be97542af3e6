"""Nothing that comes over the wire is evaluated: not by Lua, not by Python, not as a pattern or a format."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aioasynq import Client, Server, Task, keys
from aioasynq.message import TaskMessage
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.storing import Scheduled, Unique
from tests.server.stage import PATIENCE, Seen
from tests.support.state import State

ROOT = Path(__file__).parents[2]

#: What would do harm, or come out changed, if any of it were read as anything but a word.
WORDS = [
    "'); redis.call('FLUSHALL'); --",
    '"]] redis.call("FLUSHALL") --[[',
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "a\x00b\x1b[2J",
    "%s%n %(id)s %d",
    "${jndi:x} $(id) `id` {0.__class__} {}",
    "*?[a-z]\\",
    "return 1 end) (function()",
    "lease=1",
    "+1.0",
    "__import__('os').abort()",
    "cos\nsystem\n(S'id'\ntR.",
    "-inf",
    "ünï \u202e ",
]
#: Of names of queues, which may have no braces.
QUEUES = [word for word in WORDS if not set(word) & {"{", "}"}]


def _message(queue: str, task_id: str, word: str) -> TaskMessage:
    return TaskMessage(
        type=word, payload=word.encode(), id=task_id, queue=queue, retry=3, retention=60, headers={word: word}
    )


@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
async def test_every_step_takes_any_word_as_it_is(rdb_here: RDB, redis: Redis, word: str) -> None:
    """As id, type, payload, header, group, owner, caller of a receipt, error, and name of a queue."""
    queue = word if word in QUEUES else "q"
    await redis.set("witness", "here")
    msgs = [_message(queue, f"{word}{end}", word) for end in ("", "2", "3", "4", "5")]
    receipt = Receipt(word, 1)
    assert await rdb_here.enqueue(msgs, receipt=receipt) == [None] * 5
    assert await rdb_here.enqueue(msgs, receipt=receipt) == [None] * 5  # the answer that was kept
    batch = await rdb_here.dequeue(queue, count=9, owner=f"host:{word}", lease=60)
    assert [leased.msg for leased in batch.tasks] == msgs
    one, two, three, four, five = batch.tasks
    assert await rdb_here.extend_lease([one])
    assert await rdb_here.write_result(queue, one.id, word.encode(), owner=one.guard)
    assert await rdb_here.done([one]) == [True]
    assert await rdb_here.mark_as_complete([Completed(two, word.encode())]) == [True]
    assert await rdb_here.retry([Failed(three, 0.0, word)]) == [True]
    assert await rdb_here.kill([Killed(four, word)]) == [True]
    assert await rdb_here.requeue([five]) == [True]
    unique = _message(queue, "unique", word)
    unique.unique_key = keys.unique(queue, word, None)
    grouped = _message(queue, "grouped", word)
    grouped.group_key = word
    assert await rdb_here.enqueue_unique([Unique(unique, 60)]) == [None]
    assert await rdb_here.schedule([Scheduled(_message(queue, "later", word), "+60.000")]) == [None]
    assert await rdb_here.add_to_group([grouped]) == [None]
    async with asyncio.timeout(PATIENCE):
        while not (forwarded := await rdb_here.check_and_enqueue(queue)).moved:
            pass  # it is due in less than a millisecond
    assert forwarded.strays == []
    assert (await rdb_here.repair(queue)).strays == []
    state = await State.read(redis, queue)
    assert state.pending == [f"{word}5", "unique", f"{word}3"]
    assert set(state.completed) == {f"{word}2"}
    assert set(state.archived) == {f"{word}4"}
    assert state.groups == {word: state.groups[word]}
    archived = state.tasks[f"{word}4"]
    assert archived is not None
    assert archived["msg"].error_msg == word
    assert await redis.get("witness") == b"here"


@pytest.mark.parametrize("guard", ["lease=", "lease=x", "lease=-inf", "lease=4000000000", "", "'", "owner"])
async def test_no_guard_is_read_as_anything_else(rdb_here: RDB, guard: str) -> None:
    await rdb_here.enqueue([_message("q", "a", "t")])
    await rdb_here.dequeue("q", owner="host:1:s:1", lease=60)
    assert await rdb_here.done([Leased("q", "a", None, guard)]) == [False]


async def test_a_whole_server_takes_any_word(redis: Redis, redis_url: str) -> None:
    """From client to handler and back: type, payload, headers, id and error are what they were."""
    got, said = Seen(), Seen()

    async def work(task: Task) -> str:
        got.add((task.id, task.payload.decode(), task.headers))
        raise ValueError(task.payload.decode())

    async def told(task: Task, error: BaseException) -> None:
        said.add(str(error))

    server = Server(redis_url, error_handler=told)
    for word in WORDS:
        server.mux.add(word, work)
    async with asyncio.timeout(PATIENCE), server, Client(redis_url) as client:
        for word in WORDS:
            await client.enqueue(Task(word, word, headers={word: word}), task_id=word, max_retry=0)
        await got.until(len(WORDS))
        await said.until(len(WORDS))
    assert sorted(got.all, key=str) == sorted(((word, word, {word: word}) for word in WORDS), key=str)
    assert sorted(said.all) == sorted(WORDS)
    assert (await State.read(redis, "default")).archived.keys() == set(WORDS)


EVALUATORS = {"eval", "exec", "compile", "__import__", "pickle", "marshal", "shelve", "dill", "yaml", "cloudpickle"}


def test_python_evaluates_nothing() -> None:
    """No module of the package calls or imports what turns bytes into code."""
    for path in sorted((ROOT / "aioasynq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            match node:
                case ast.Call(func=ast.Name(id=name)):
                    names = {name}
                case ast.Import():
                    names = {alias.name.partition(".")[0] for alias in node.names}
                case ast.ImportFrom():
                    names = {(node.module or "").partition(".")[0]}
                case _:
                    pass
            assert not names & EVALUATORS, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


#: What imports by a name, and whose it is.
IMPORTERS = {
    "__init__.py": "a name of this package, from a table",
    "cli/target.py": "what the user of the command named",
    "cli/worker.py": "a library, literally",
    "server/processes/child.py": "the main module of the program whose child it is",
    "typed/target.py": "the module of a handler, as the program registered it",
}


def test_nothing_is_imported_by_a_name_from_the_wire() -> None:
    found = {
        path.relative_to(ROOT / "aioasynq").as_posix()
        for path in (ROOT / "aioasynq").rglob("*.py")
        if re.search(r"\bimport_module\(|\bspec_from_file_location\(", path.read_text())
    }
    assert found == set(IMPORTERS)


def test_lua_evaluates_nothing() -> None:
    """A script loads no code, and calls no command that would; its text is that of its files."""
    for path in sorted((ROOT / "aioasynq" / "rdb" / "lua").glob("*.lua")):
        code = re.sub(r"--[^\n]*", "", path.read_text())
        assert not re.search(r"\b(loadstring|load|dofile|setfenv|getfenv|require)\s*\(", code), path.name
        for command in re.findall(r"\bp?call\(\s*(\S+)", code):
            assert re.fullmatch(r'"[A-Z]+",?\)?', command), f"{path.name}: a command that is no literal: {command}"
            assert "EVAL" not in command
