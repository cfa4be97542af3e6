"""What is wrong with a command is said in a line or two, with what would be right."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
import typer

from aioasynq.cli import given
from tests.support import forked

FORMS = "write NAME:WEIGHT or NAME, with commas between, as in critical:6,default:3"
NO_MODULE = "aioasynq: there is no module {name!r} for {target!r}; it was looked for in {cwd} first"
HAS = "it has mux (ServeMux), empty (ServeMux), server (Server), patient (Server)"
PORT = "--metrics-port must be a port, from 0 (any free one) to 65535, as in --metrics-port 9100"
NEEDED = f"a ServeMux, a Server, or a function that makes one, is needed: {HAS}"
WRONG = {
    # the target
    "no colon": (["tasks"], "aioasynq: 'tasks' is no MODULE:NAME, as in tasks:mux"),
    "a dot for a colon": (
        ["tasks.mux"],
        "aioasynq: 'tasks.mux' is no MODULE:NAME, as in tasks:mux or tasks.mux:mux",
    ),
    "no name": (["tasks:"], "aioasynq: 'tasks:' is no MODULE:NAME, as in myapp.tasks:mux"),
    "no module": ([":mux"], "aioasynq: ':mux' is no MODULE:NAME, as in myapp.tasks:mux"),
    "two colons": (["tasks:mux:x"], "aioasynq: 'tasks:mux:x' is no MODULE:NAME, as in myapp.tasks:mux"),
    "a relative module": ([".tasks:mux"], "aioasynq: '.tasks:mux' is no MODULE:NAME, as in myapp.tasks:mux"),
    "a file": (["tasks.py:mux"], "aioasynq: 'tasks.py:mux' is a path; write tasks:mux"),
    "a file alone": (["./tasks.py"], "aioasynq: './tasks.py' is a path; write tasks:mux"),
    "a file in a folder": (["app/tasks.py:mux"], "aioasynq: 'app/tasks.py:mux' is a path; write app.tasks:mux"),
    "slashes": (["tasks/mux"], "aioasynq: 'tasks/mux' is a path; write tasks:mux"),
    "backslashes": ([r"app\tasks:mux"], r"aioasynq: 'app\\tasks:mux' is a path; write app.tasks:mux"),
    "a file elsewhere": (
        ["/srv/tasks.py:mux"],
        "aioasynq: '/srv/tasks.py:mux' is a path; go to /srv and write tasks:mux",
    ),
    "module missing": (["nope:mux"], NO_MODULE.format(name="nope", target="nope:mux", cwd="{cwd}")),
    "package missing": (["nope.tasks:mux"], NO_MODULE.format(name="nope", target="nope.tasks:mux", cwd="{cwd}")),
    "module in a module": (
        ["tasks.sub:mux"],
        NO_MODULE.format(name="tasks.sub", target="tasks.sub:mux", cwd="{cwd}") + " ('tasks' is a module, no package)",
    ),
    "module in a folder below": (
        ["jobs:mux"],
        NO_MODULE.format(name="jobs", target="jobs:mux", cwd="{cwd}")
        + ".\nThere is app/jobs.py: go to app, or write app.jobs:mux",
    ),
    "name missing": (["tasks:nope"], f"aioasynq: module 'tasks' has no 'nope'; {HAS}"),
    "dotted name missing": (["tasks:nested.nope"], f"aioasynq: module 'tasks' has no 'nested.nope'; {HAS}"),
    "name missing in a module without any": (
        ["app.models:mux"],
        "aioasynq: module 'app.models' has no 'mux'; there is no ServeMux and no Server in it",
    ),
    "name missing among many": (
        ["app.many:mux"],
        (
            "aioasynq: module 'app.many' has no 'mux'; it has m0 (ServeMux), m1 (ServeMux), m2 (ServeMux), "
            "m3 (ServeMux), m4 (ServeMux) and 2 more"
        ),
    ),
    "a module after the colon": (
        ["app:models.mux"],
        "aioasynq: module 'app' has no 'models.mux'; 'models' is a module in it, so write app.models:mux",
    ),
    "wrong type": (["tasks:number"], f"aioasynq: 'tasks:number' is of type int; {NEEDED}"),
    "a handler": (["tasks:greet"], f"aioasynq: 'tasks:greet' is of type TaskType; {NEEDED}"),
    "a raw handler": (
        ["tasks:thread"],
        f"aioasynq: 'tasks:thread' is a function that needs arguments; {NEEDED}",
    ),
    "an async function": (["tasks:later"], f"aioasynq: 'tasks:later' is an async function; {NEEDED}"),
    "a factory of something else": (
        ["tasks:make_nothing"],
        "aioasynq: 'tasks:make_nothing' is a function that returned NoneType, not a ServeMux or a Server",
    ),
    "no handler": (
        ["tasks:empty"],
        "aioasynq: tasks:empty has no handler; register one with @empty.task(...) or .handler(...)",
    ),
    # the queues
    "a weight with =": (
        ["tasks:mux", "--queues", "a=1"],
        f"aioasynq: --queues 'a=1': 'a=1' has a = where a : belongs; {FORMS}",
    ),
    "a weight that is no number": (
        ["tasks:mux", "--queues", "a:6,b:x"],
        f"aioasynq: --queues 'a:6,b:x': in 'b:x' the weight must be a whole number from 1; {FORMS}",
    ),
    "a weight of nothing": (
        ["tasks:mux", "--queues", "a:0"],
        f"aioasynq: --queues 'a:0': in 'a:0' the weight must be a whole number from 1; {FORMS}",
    ),
    "spaces for commas": (
        ["tasks:mux", "--queues", "a b"],
        f"aioasynq: --queues 'a b': 'a b' is no name; {FORMS}",
    ),
    "no queue": (["tasks:mux", "--queues", ""], f"aioasynq: --queues '': it is empty; {FORMS}"),
    "a comma too many": (
        ["tasks:mux", "--queues", "a,"],
        f"aioasynq: --queues 'a,': there is a comma too many; {FORMS}",
    ),
    "a weight without a queue": (["tasks:mux", "--queues", ":3"], f"aioasynq: --queues ':3': ':3' is no name; {FORMS}"),
    "a queue named twice": (
        ["tasks:mux", "--queues", "a,a:2"],
        f"aioasynq: --queues 'a,a:2': 'a' is there twice; {FORMS}",
    ),
    "a queue with braces": (
        ["tasks:mux", "--queues", "{a}"],
        f"aioasynq: --queues '{{a}}': queue must not contain braces, got '{{a}}'; {FORMS}",
    ),
    # the other options
    "concurrency of nothing": (
        ["tasks:mux", "--concurrency", "0"],
        "aioasynq: --concurrency must be a whole number from 1, as in --concurrency 20; got '0'",
    ),
    "concurrency that is no number": (
        ["tasks:mux", "--concurrency", "x"],
        "aioasynq: --concurrency must be a whole number from 1, as in --concurrency 20; got 'x'",
    ),
    "a shutdown timeout below zero": (
        ["tasks:mux", "--shutdown-timeout", "-1"],
        "aioasynq: --shutdown-timeout must be seconds or a duration, as in --shutdown-timeout 30 or 1h30m; got '-1'",
    ),
    "a shutdown timeout that never ends": (
        ["tasks:mux", "--shutdown-timeout", "inf"],
        "aioasynq: --shutdown-timeout must be seconds or a duration, as in --shutdown-timeout 30 or 1h30m; got 'inf'",
    ),
    "a log level that is none": (
        ["tasks:mux", "--log-level", "loud"],
        "aioasynq: --log-level must be one of debug, info, warning, error; got 'loud'",
    ),
    "an empty url": (
        ["tasks:mux", "--url", ""],
        (
            "aioasynq: --url is empty (a shell variable that is not set?); write --url redis://HOST:6379/0, "
            "or leave it out for the URL in AIOASYNQ_REDIS_URL"
        ),
    ),
    "scheme": (
        ["tasks:mux", "--url", "http://:secret@localhost"],
        (
            "aioasynq: redis must be a URL that begins with one of "
            "redis://, rediss://, unix://, redis-socket://, redis-sentinel://, rediss-sentine"
            "l://, redis-cluster://, rediss-cluster://; got 'http://:***@localhost'"
        ),
    ),
    "password with a slash": (
        ["tasks:mux", "--url", "redis://:sec/ret@localhost"],
        (
            "aioasynq: redis must be a URL like redis://localhost:6379/0, got 'redis://:***@localhost': "
            "its port is no number; in a password a slash is written %2F, a # %23 and a ? %3F"
        ),
    ),
    "no process": (
        ["tasks:mux", "--processes", "0"],
        "aioasynq: --processes must be a whole number from 1, as in --processes 20; got '0'",
    ),
    "a memory of words": (
        ["tasks:mux", "--max-memory", "lots"],
        "aioasynq: --max-memory must be a size, as in --max-memory 500MB or --max-memory 1.5GiB; got 'lots'",
    ),
    "too little memory": (
        ["tasks:mux", "--max-memory", "1MB"],
        "aioasynq: --max-memory 1 MB is less than the {used} MB that a worker holds before its first task",
    ),
    "a format that is none": (
        ["tasks:mux", "--log-format", "xml"],
        "aioasynq: --log-format must be one of text, json; got 'xml'",
    ),
    "a port that is no number": (
        ["tasks:mux", "--metrics-port", "http"],
        f"aioasynq: {PORT}; got 'http'",
    ),
    "a port that is none": (
        ["tasks:mux", "--metrics-port", "65536"],
        f"aioasynq: {PORT}; got '65536'",
    ),
    "a port below zero": (
        ["tasks:mux", "--metrics-port=-1"],
        f"aioasynq: {PORT}; got '-1'",
    ),
    "a host without a port": (
        ["tasks:mux", "--metrics-host", "::1"],
        (
            "aioasynq: --metrics-host is about --metrics-port, as in --metrics-port 9100 --metrics-host ::1; "
            "there is none"
        ),
    ),
    "an empty host": (
        ["tasks:mux", "--metrics-port", "0", "--metrics-host", ""],
        (
            "aioasynq: --metrics-host is empty; write --metrics-host 0.0.0.0 for all addresses, "
            "or leave it out for 127.0.0.1"
        ),
    ),
    "no tasks": (
        ["tasks:mux", "--max-tasks", "0"],
        "aioasynq: --max-tasks must be a whole number from 1, as in --max-tasks 20; got '0'",
    ),
    "one queue in order": (
        ["tasks:mux", "--strict"],
        "aioasynq: --strict is about several queues, as in --queues critical:2,default:1 --strict; there is one",
    ),
    "several processes of no module": (
        ["nope:mux", "--processes", "3"],
        NO_MODULE.format(name="nope", target="nope:mux", cwd="{cwd}"),
    ),
    "several processes of no name": (
        ["tasks", "--processes", "3"],
        "aioasynq: 'tasks' is no MODULE:NAME, as in tasks:mux",
    ),
    "an option that is none": (
        ["tasks:mux", "--xyzzy"],
        "aioasynq: No such option: --xyzzy\naioasynq worker --help tells what there is",
    ),
    "no target": ([], "aioasynq: Missing argument 'MODULE:NAME'\naioasynq worker --help tells what there is"),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_line_or_two(folder, arguments, text):
    ran = forked.run("worker", *arguments, cwd=folder)
    assert ran.code == 2
    said = re.sub(r"\d+ MB that", "{used} MB that", ran.said)
    assert said.splitlines() == text.replace("{cwd}", str(folder)).splitlines()


def test_a_module_in_a_folder_above_is_found(folder):
    ran = forked.run("worker", "tasks:mux", cwd=folder / "app")
    assert ran.code == 2
    assert ran.said.splitlines()[1:] == [f"There is {folder}/tasks.py: go to {folder}"]


#: What a module that fails shows: its own frames, and no others.
FAILING = {
    "a module is missing": (
        "broken:mux",
        """aioasynq: module 'broken' cannot be imported:
Traceback (most recent call last):
  File "{cwd}/broken.py", line 1, in <module>
    import surely_not_there
ModuleNotFoundError: No module named 'surely_not_there'
""",
    ),
    "deep in another module": (
        "app.deep:mux",
        """aioasynq: module 'app.deep' cannot be imported:
Traceback (most recent call last):
  File "{cwd}/app/deep.py", line 1, in <module>
    from app import deeper
  File "{cwd}/app/deeper.py", line 1, in <module>
    setting = {}["missing"]
KeyError: 'missing'
""",
    ),
    "no Python": (
        "app.wrong:mux",
        """aioasynq: module 'app.wrong' cannot be imported:
  File "{cwd}/app/wrong.py", line 1
    def
SyntaxError: invalid syntax
""",
    ),
    "it ends the process": (
        "app.leaves:mux",
        """aioasynq: module 'app.leaves' cannot be imported:
Traceback (most recent call last):
  File "{cwd}/app/leaves.py", line 1, in <module>
    raise SystemExit(0)
SystemExit: 0
""",
    ),
    "a factory fails": (
        "app.many:make_none()",
        """aioasynq: 'app.many:make_none()', called to make a ServeMux, failed:
Traceback (most recent call last):
  File "{cwd}/app/many.py", line 5, in make_none
    raise ValueError("no settings")
ValueError: no settings
""",
    ),
}


@pytest.mark.parametrize(("target", "text"), FAILING.values(), ids=FAILING)
def test_a_module_that_fails_is_shown_with_the_place(folder, target, text):
    ran = forked.run("worker", target, cwd=folder)
    assert ran.code == 2
    # Which columns are marked differs between versions of Python.
    said = [line for line in ran.said.splitlines() if not re.fullmatch(r"[ ^~]+", line)]
    assert said == text.replace("{cwd}", str(folder)).splitlines()


def test_who_stands_inside_the_package_is_told_so(folder):
    ran = forked.run("worker", "jobs:mux", cwd=folder / "app")
    assert ran.code == 2
    last = ran.said.splitlines()[-1]
    assert last == "aioasynq: 'app' is the folder you are in; go one up and write app.jobs:mux"


SIZES = {
    "500MB": 500_000_000,
    "500mb": 500_000_000,
    "500 M": 500_000_000,
    "1.5GiB": 1_610_612_736,
    "64kib": 65_536,
    "2T": 2_000_000_000_000,
    "4096": 4096,
    "7b": 7,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items(), ids=SIZES)
def test_a_size(text, size):
    assert given.size("--max-memory", text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "0.5", "1e9", "5 0", "1,5GB", "5XB", "1 MB more"])
def test_no_size(text, capsys):
    with pytest.raises(typer.Exit) as left:
        given.size("--max-memory", text)
    assert left.value.exit_code == 2
    assert f"got {text!r}" in capsys.readouterr().err


def test_what_is_not_given_stays_so():
    assert [
        given.size("--x", None),
        given.whole("--x", None),
        given.seconds("--x", None),
        given.level("--x", None),
        given.weights(None),
        given.url(None),
    ] == [None] * 6


LEVELS = {
    "debug": logging.DEBUG, "DEBUG": logging.DEBUG, "info": logging.INFO, "Info": logging.INFO,
    "warn": logging.WARNING, "WARN": logging.WARNING, "warning": logging.WARNING, "WARNING": logging.WARNING,
    "error": logging.ERROR, "Error": logging.ERROR, "fatal": logging.CRITICAL, "FATAL": logging.CRITICAL,
}  # fmt: skip


@pytest.mark.rows(12, 121)
@pytest.mark.parametrize(("name", "level"), LEVELS.items())
def test_a_level(name, level):
    assert given.level("--log-level", name) == level


@pytest.mark.rows(12, 121)
@pytest.mark.parametrize("name", ["", " ", "loud", "10", "notset", "warnin", "info "])
def test_no_level(name, capsys):
    with pytest.raises(typer.Exit) as left:
        given.level("--log-level", name)
    assert left.value.exit_code == 2
    assert f"--log-level must be one of debug, info, warning, error; got {name!r}" in capsys.readouterr().err


@pytest.mark.rows(12)
@pytest.mark.parametrize(
    ("least", "said"), [("debug", "DIWE"), ("info", "IWE"), ("warn", "WE"), ("error", "E"), ("fatal", "")]
)
def test_a_level_prints_itself_and_what_is_above(least, said):
    program = (
        "import logging; from aioasynq.cli import given; from aioasynq.cli.serve import set_up_logging;"
        f"set_up_logging(given.level('--log-level', {least!r}));"
        "log = logging.getLogger('aioasynq.x'); [getattr(log, level)('said-%s', level[0].upper())"
        " for level in ('debug', 'info', 'warning', 'error')]"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "".join(re.findall("said-(.)", ran.stderr)) == said


def test_what_is_given():
    assert given.weights(" critical:6, default:3,low") == {"critical": 6, "default": 3, "low": 1}
    assert given.seconds("--shutdown-timeout", "0.5") == 0.5
    assert given.level("--log-level", "Warning") == logging.WARNING
