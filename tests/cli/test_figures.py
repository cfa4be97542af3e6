"""What a worker tells of itself: metrics and health over HTTP, and lines of JSON."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
import typer
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aioasynq import Client, ServeMux, Server, Task, __version__
from aioasynq.cli import exposition, figures
from aioasynq.cli.exposition import exposed
from aioasynq.cli.figures import BOUNDS, MAX_TYPES, OTHER, Durations, Figures, OfProcesses, Recorder
from aioasynq.cli.line import LONGEST, decode, encode
from aioasynq.observer import Ended
from tests.cli.stage import PATIENCE, Worker
from tests.server.stage import eventually

Samples = dict[tuple[str, ...], float]


async def address(worker: Worker) -> str:
    """Where it answers."""
    said = await worker.until("/metrics, with")
    found = re.search(r"metrics at (http://\S+)/metrics, with /healthz and /readyz beside it", said)
    assert found
    return found[1]


def http(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE)


async def scrape(client: httpx.AsyncClient) -> Samples:
    """The samples by name and the values of their labels, in the order of their names."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def look(client: httpx.AsyncClient, path: str) -> tuple[int, str]:
    answer = await client.get(path)
    return answer.status_code, answer.text


async def until(client: httpx.AsyncClient, name: str, *labels: str, value: float) -> Samples:
    """A scrape in which that is so."""
    found: Samples = {}

    async def holds() -> bool:
        nonlocal found
        found = await scrape(client)
        return found.get((name, *labels)) == value

    await eventually(holds)
    return found


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two"])
async def test_the_figures_of_a_worker(run_worker, redis_url, processes):
    options = ("--url", redis_url, "--metrics-port", "0", "--concurrency", "5", *processes)
    async with (
        run_worker("tasks:mux", *options) as worker,
        Client(redis_url) as tasks,
        http(await address(worker)) as client,
    ):
        await worker.until("started", times=2 if processes else 1)
        await tasks.enqueue_many([Task("greet", '{"name": "you"}') for _ in range(3)])
        await tasks.enqueue(Task("unknown", max_retry=0))
        await tasks.enqueue(Task("greet", "no JSON"))
        await tasks.enqueue(Task("slow:one", task_id="s"))
        found = await until(client, "aioasynq_worker_processed_total", value=5)
        found = await until(client, "aioasynq_worker_running", value=1)
        count = len(processes) or 1
        names = ("processes", "redis_up", "ready", "concurrency")
        assert [found[f"aioasynq_worker_{name}",] for name in names] == [count, count, count, 5 * count]
        assert {key[1:]: value for key, value in found.items() if key[0] == "aioasynq_worker_tasks_total"} == {
            ("done", "greet"): 3,
            ("archived", "greet"): 1,
            ("archived", OTHER): 1,
        }
        assert found["aioasynq_worker_failed_total",] == 2
        assert found["aioasynq_worker_task_seconds_count", "greet"] == 4
        assert found["aioasynq_worker_task_seconds_bucket", "300.0", "greet"] == 4
        assert found["aioasynq_worker_task_seconds_bucket", "+Inf", "greet"] == 4
        assert 0 < found["aioasynq_worker_task_seconds_sum", "greet"] < 4
        assert found["process_resident_memory_bytes",] > 1e6  # what prometheus_client brings
        assert await look(client, "/healthz") == (200, "ok\n")
        assert await look(client, "/readyz") == (200, "ok\n")
        assert (await client.head("/readyz")).text == ""
        assert await look(client, "/metrics/") == (404, "there are /metrics, /healthz and /readyz\n")
        assert (await client.post("/metrics")).status_code == 501

        worker.process.send_signal(signal.SIGTERM)
        await eventually(lambda: _is_unready(client, "the server is closed" if not processes else "is stopping"))
        assert await look(client, "/healthz") == (200, "ok\n")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


async def _is_unready(client: httpx.AsyncClient, why: str) -> bool:
    status, text = await look(client, "/readyz")
    return status == 503 and why in text


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two"])
async def test_a_worker_is_not_ready_while_redis_is_away(run_worker, redis_url, threaded_proxy, processes):
    between = await threaded_proxy()
    async with (
        run_worker("tasks:mux", "--url", between.url, "--metrics-port", "0", *processes) as worker,
        http(await address(worker)) as client,
    ):
        await eventually(lambda: _says(client, "/readyz", (200, "ok\n")))
        await between.down()
        await eventually(lambda: _says(client, "/readyz", (503, "no contact with Redis\n")))
        assert await look(client, "/healthz") == (200, "ok\n")
        assert (await until(client, "aioasynq_worker_redis_up", value=0))["aioasynq_worker_ready",] == 0
        await between.up()
        await eventually(lambda: _says(client, "/readyz", (200, "ok\n")))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


async def _says(client: httpx.AsyncClient, path: str, expected: tuple[int, str]) -> bool:
    return await look(client, path) == expected


async def test_a_worker_that_takes_no_more_tasks_is_not_ready(run_worker, redis_url):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--metrics-port", "0") as worker,
        http(await address(worker)) as client,
    ):
        await worker.until(" started")  # its signals are heeded from then on
        await eventually(lambda: _says(client, "/readyz", (200, "ok\n")))
        worker.process.send_signal(signal.SIGTSTP)
        await eventually(lambda: _says(client, "/readyz", (503, "the server is stopped\n")))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


async def test_a_blocked_loop_is_told_of(run_worker, redis_url):
    """The threads that answer go on, and say what is wrong."""
    short = (
        "-c",
        "import aioasynq.cli.figures as f; f.STALLED = 1\nfrom aioasynq.cli.main import main; main()",
    )
    options = ("--url", redis_url, "--metrics-port", "0")
    async with (
        run_worker("tasks:mux", *options, program=short) as worker,
        Client(redis_url) as tasks,
        http(await address(worker)) as client,
    ):
        assert await look(client, "/healthz") == (200, "ok\n")
        await tasks.enqueue(Task("block"))
        assert (await worker.line()).startswith("block")
        await eventually(lambda: _is_stalled(client))
        assert (await scrape(client))["aioasynq_worker_running",] == 1
        assert (await look(client, "/readyz"))[0] == 503


async def _is_stalled(client: httpx.AsyncClient) -> bool:
    status, text = await look(client, "/healthz")
    return status == 503 and bool(re.fullmatch(r"its event loop has stood still for \d+ s\n", text))


async def test_what_a_dead_process_has_done_stays_in_the_sums(run_worker, redis_url):
    options = ("--url", redis_url, "--metrics-port", "0", "--processes", "1")
    async with (
        run_worker("tasks:mux", *options) as worker,
        Client(redis_url) as tasks,
        http(await address(worker)) as client,
    ):
        await tasks.enqueue_many([Task("pid") for _ in range(6)])
        got = [await worker.line() for _ in range(6)]
        assert all(got), (got, (await worker.end(), worker.said))
        pids = {int(line.split()[1]) for line in got}
        await until(client, "aioasynq_worker_processed_total", value=6)
        os.kill(pids.pop(), signal.SIGKILL)
        await worker.until("another one starts")
        found = await until(client, "aioasynq_worker_processes", value=1)
        assert found["aioasynq_worker_processed_total",] == 6
        assert found["aioasynq_worker_tasks_total", "done", "pid"] == 6
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(typer.Exit) as left, exposed(OfProcesses(), "127.0.0.1", port):
            pytest.fail("it listens")
    assert left.value.exit_code == 2
    assert capsys.readouterr().err == (
        f"aioasynq: --metrics-port {port}: cannot listen on '127.0.0.1': Address already in use\n"
    )


def test_a_host_that_is_none(capsys):
    with pytest.raises(typer.Exit) as left, exposed(OfProcesses(), "no.such.host.invalid", 0):
        pytest.fail("it listens")
    assert left.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.startswith("aioasynq: --metrics-port 0: cannot listen on 'no.such.host.invalid': ")
    assert len(said.splitlines()) == 1


async def test_a_port_that_is_taken_ends_a_worker(run_worker, redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--url", redis_url, "--metrics-port", port, "--processes", "2")
        async with run_worker("tasks:mux", *options) as worker:
            assert await worker.end() == 2
    assert worker.said.startswith(f"aioasynq: --metrics-port {port}: cannot listen")


MISSING = {
    "--metrics-port": (
        "prometheus_client",
        ["--metrics-port", "0"],
        "aioasynq: --metrics-port needs prometheus-client: pip install 'aioasynq[prometheus]'\n",
    ),
    "--otel": ("opentelemetry", ["--otel"], "aioasynq: --otel needs opentelemetry-api: pip install 'aioasynq[otel]'\n"),
}


@pytest.mark.parametrize(("module", "options", "text"), MISSING.values(), ids=MISSING)
async def test_what_is_not_installed(run_worker, redis_url, module, options, text):
    without = (
        "-c",
        f"import sys; sys.modules[{module!r}] = None\nfrom aioasynq.cli.main import main; main()",
    )
    async with run_worker("tasks:mux", "--url", redis_url, *options, program=without) as worker:
        assert await worker.end() == 2
    assert worker.said == text
    async with run_worker("tasks:mux", "--url", redis_url, program=without) as worker:
        await worker.until("started")


async def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with exposed(OfProcesses(), "::1", 0) as url:
        assert url.startswith("http://[::1]:")
        async with http(url) as client:
            assert await look(client, "/healthz") == (200, "ok\n")


OTEL = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from aioasynq import ServeMux

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: f"span {span.name}\\n")))
trace.set_tracer_provider(provider)
mux = ServeMux()

@mux.handler("t")
async def handle(task):
    print("sampled", trace.get_current_span().get_span_context().is_valid, flush=True)
"""


async def test_traces(run_worker, redis_url, tmp_path):
    """By a child of a parent, so that the flag is handed on."""
    (tmp_path / "traced.py").write_text(OTEL)
    async with (
        run_worker("traced:mux", "--url", redis_url, "--otel", "--processes", "1") as worker,
        Client(redis_url) as client,
    ):
        await client.enqueue(Task("t"))
        assert await worker.line() == "sampled True"
        assert await worker.line() == "span process default"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


def _lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


async def test_lines_of_json(run_worker, redis_url):
    """All of a parent and its child."""
    options = ("--url", redis_url, "--log-format", "json", "--metrics-port", "0", "--processes", "1")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await worker.until(" started")
        await client.enqueue(Task("greet", "no JSON", task_id="x"))
        await worker.until("goes to the archive")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    lines = _lines(worker.said)
    assert {"time", "level", "logger", "message", "process"} <= set.intersection(*map(set, lines))
    [banner] = [line for line in lines if line["message"] == f"aioasynq {__version__}"]
    assert banner["worker"]["handlers"].startswith("greet, slow:")
    [failed] = [line for line in lines if "goes to the archive" in line["message"]]
    assert (failed["level"], failed["task_id"], failed["task_type"], failed["queue"], failed["attempt"]) == (
        *("ERROR", "x", "greet"),
        *("default", 1),
    )


LOGS = """
import logging, sys
from aioasynq import ServeMux

logging.basicConfig(format="mine %(message)s", level=logging.INFO)
mux = ServeMux()

@mux.handler("t")
def handle(task):
    logging.getLogger("app").info("from a thread", extra={"user": 7})
"""


async def test_json_that_was_asked_for_wins_over_what_the_program_set_up(run_worker, redis_url, tmp_path):
    (tmp_path / "logs.py").write_text(LOGS)
    async with (
        run_worker("logs:mux", "--url", redis_url, "--log-format", "JSON") as worker,
        Client(redis_url) as client,
    ):
        await client.enqueue(Task("t", task_id="x"))
        await worker.until("from a thread")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    [line] = [line for line in _lines(worker.said) if line["logger"] == "app"]
    assert (line["message"], line["user"], line["task_id"]) == ("from a thread", 7, "x")
    async with run_worker("logs:mux", "--url", redis_url, "--log-format", "text") as worker:
        assert "mine server " in await worker.until(" started")


# --- the parts ---


def ended(outcome: Any = "done", seconds: float = 0.0) -> Ended:
    return Ended(outcome, None, seconds)


def test_patterns_beyond_a_number_are_one():
    recorder, server = Recorder(), Server("redis://127.0.0.1:1/0", ServeMux())
    for n in range(MAX_TYPES + 10):
        recorder.processing(Task("t"), pattern=f"p{n}", address="")(ended())
    told = recorder.figures(server)
    assert len(told.outcomes) == len(told.durations) == MAX_TYPES + 1
    assert told.outcomes[OTHER] == {"done": 10}
    outcomes = ("done", "completed", "revoked", "retry", "postponed", "archived", "requeued", "lost")
    for pattern in told.outcomes:
        told.outcomes[pattern] = dict.fromkeys(outcomes, 2**40)
        told.durations[pattern] = Durations([2**40] * (len(BOUNDS) + 1), 1e12 / 3)
    assert len(encode(told)) < LONGEST / 2
    assert decode(encode(told)) == told


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.0, 0), (0.005, 0), (0.0051, 1), (300.0, len(BOUNDS) - 1), (301.0, len(BOUNDS))]
)
def test_a_duration_has_its_place(seconds, place):
    recorder = Recorder()
    recorder.processing(Task("t"), pattern="p", address="")(ended(seconds=seconds))
    counts = recorder.figures(Server("redis://127.0.0.1:1/0", ServeMux())).durations["p"].counts
    assert counts.index(1) == place
    assert sum(counts) == 1


def test_the_sums_of_processes(monkeypatch):
    group, one = OfProcesses(), Figures(processes=1, concurrency=5, in_contact=1, ready=1)
    assert (group.unready(), group.sick()) == ("no process is ready", "")
    group.report(1, one)
    group.report(2, msgspec.structs.replace(one, running=2, counts={"processed": 3}, outcomes={"p": {"done": 3}}))
    assert (group.unready(), group.sick()) == ("", "")
    group.gone(2)
    group.gone(2)
    group.report(3, msgspec.structs.replace(one, counts={"processed": 4}, outcomes={"p": {"done": 3, "retry": 1}}))
    total = group.figures()
    assert (total.processes, total.concurrency, total.running, total.ready) == (2, 10, 0, 2)
    assert (total.counts["processed"], total.outcomes) == (7, {"p": {"done": 6, "retry": 1}})
    assert group.figures() == total  # reading it changes nothing
    monkeypatch.setattr(figures, "STALLED", -1.0)
    assert re.fullmatch(r"process \d: its event loop has stood still for 0 s", group.sick())
    group.report(1, msgspec.structs.replace(one, ready=0, in_contact=0))
    group.report(3, msgspec.structs.replace(one, ready=0, in_contact=0))
    assert group.unready() == "no contact with Redis"
    group.stop()
    assert group.unready() == "the worker is stopping"


async def test_many_ask_at_once_and_some_say_nothing():
    with exposed(OfProcesses(), "127.0.0.1", 0) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        async with http(url) as client:
            answers = await asyncio.gather(*(client.get("/healthz") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
    # nobody who asks keeps it
    for _, writer in silent:
        writer.close()


async def test_who_says_nothing_is_cut_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(exposition, "MOST", 3)
    with exposed(OfProcesses(), "127.0.0.1", 0) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        async with asyncio.timeout(PATIENCE / 5):  # sooner than it would be cut for its silence
            assert await silent[0][0].read() == b""
        async with http(url) as client:
            assert await look(client, "/healthz") == (200, "ok\n")
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()


async def test_a_request_that_comes_by_the_byte_is_cut(monkeypatch):
    monkeypatch.setattr(exposition, "PATIENCE", 0.2)
    with exposed(OfProcesses(), "127.0.0.1", 0) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE):
            reading = asyncio.create_task(reader.read())
            while not reading.done():
                writer.write(b"G")
                await asyncio.wait({reading}, timeout=0.02)
        writer.close()


async def test_without_a_descriptor_it_does_not_spin(monkeypatch):
    """A listening socket stays readable while nothing can be taken from it."""
    with exposed(OfProcesses(), "127.0.0.1", 0) as url:
        tries, real = [0], socket.socket.accept

        def accept(self: socket.socket) -> Any:
            tries[0] += 1
            if tries[0] < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(self)

        monkeypatch.setattr(socket.socket, "accept", accept)
        rested: list[float] = []
        monkeypatch.setattr(time, "sleep", rested.append)
        async with http(url) as client:
            assert await look(client, "/healthz") == (200, "ok\n")
    assert rested == [exposition.REST] * 2


class _Broken(Collector):
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("its database is away")


async def test_a_collector_of_the_program_that_fails_takes_nothing_else_down(caplog):
    broken = _Broken()
    REGISTRY.register(broken)
    try:
        with exposed(OfProcesses(), "127.0.0.1", 0) as url:
            async with http(url) as client:
                assert (await scrape(client))["aioasynq_worker_processes",] == 0
    finally:
        REGISTRY.unregister(broken)
    assert "its database is away" in caplog.text


async def test_a_metric_that_cannot_be_written_is_said(caplog):
    told = OfProcesses()
    told.report(1, Figures(outcomes={'quotes " and \n and \\ and é': {"done": 1}}))
    with exposed(told, "127.0.0.1", 0) as url:
        async with http(url) as client:
            assert (await scrape(client))["aioasynq_worker_tasks_total", "done", 'quotes " and \n and \\ and é'] == 1
            told.report(1, Figures(outcomes={"no text: \udcff": {"done": 1}}))
            answer = await client.get("/metrics")
            assert answer.status_code == 500
            assert await look(client, "/healthz") == (200, "ok\n")
    assert "UnicodeEncodeError" in caplog.text


async def test_what_several_processes_measure_themselves_is_seen_where_it_is_kept(tmp_path, monkeypatch):
    program = "from prometheus_client import Counter; Counter('mails', 'Sent.', ['kind']).labels('welcome').inc(2)"
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        )
        assert await process.wait() == 0
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for many, seen in ((True, 4), (False, None)):
        with exposed(OfProcesses(), "127.0.0.1", 0, many=many) as url:
            async with http(url) as client:
                assert (await scrape(client)).get(("mails_total", "welcome")) == seen
