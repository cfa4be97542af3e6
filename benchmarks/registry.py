"""Which systems are compared, what each is installed from, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "aioasynq"
GO = "asynq (Go)"

UVLOOP = "uvloop==0.23.0"
HIREDIS = "hiredis==3.5.0"
TYPING = "typing_extensions>=4"  # two import it and forgot to ask for it


@dataclass(frozen=True)
class System:
    name: str
    #: The file in ``systems`` that uses it; empty for the Go program.
    module: str
    #: What pip installs into its environment; "." is this working tree.
    requirements: tuple[str, ...] = ()
    #: "asyncio", "threads" or "go".
    kind: str = "asyncio"
    #: "bulk": enqueues many in one call; "at": runs tasks at a moment; "everything", "queues": see works.py.
    can: frozenset[str] = frozenset({"at"})
    min_python: tuple[int, int] = (3, 11)
    #: Seconds that it needs, on a slow machine, to enqueue 10,000 delayed tasks, and some more.
    lead: float = 8.0
    #: Why it is not among those that run tasks at a moment.
    no_delays: str = ""

    @property
    def ours(self) -> bool:
        return self.name == OURS

    @property
    def python(self) -> bool:
        return self.kind != "go"


SYSTEMS = (
    System(
        OURS,
        "aioasynq",
        ("--editable", ".", UVLOOP),
        can=frozenset({"bulk", "at", "everything", "queues"}),
        lead=4.0,
    ),
    System(GO, "", kind="go", can=frozenset({"at", "queues"}), lead=4.0),
    System(
        "repid",
        "repid",
        ("repid[redis]==2.1.4", TYPING, HIREDIS, UVLOOP),
        can=frozenset(),
        no_delays="has no delays on Redis",
    ),
    System("ardiq", "ardiq", ("ardiq==1.2.0", UVLOOP), can=frozenset({"bulk", "at"}), min_python=(3, 12), lead=6.0),
    System("saq", "saq", ("saq[redis,hiredis]==0.26.4", TYPING, UVLOOP)),
    System("arq", "arq", ("arq==0.28.0", UVLOOP)),
    System(
        "taskiq stream",
        "taskiq_stream",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4", "orjson>=3.10", HIREDIS, UVLOOP),
        can=frozenset(),
        no_delays="delays need a scheduler process",
    ),
    System(
        "taskiq list",
        "taskiq_list",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4", "orjson>=3.10", HIREDIS, UVLOOP),
        can=frozenset(),
        no_delays="delays need a scheduler process",
    ),
    System("streaq", "streaq", ("streaq==7.2.0", UVLOOP), can=frozenset({"bulk", "at"})),
    System("pydocket", "pydocket", ("pydocket==0.27.0", HIREDIS, UVLOOP), can=frozenset({"bulk", "at"}), lead=15.0),
    System("celery", "celery", ("celery[redis]==5.7.0", HIREDIS), kind="threads", lead=25.0),
    System("rq", "rq", ("rq==3.0.0", HIREDIS), kind="threads", can=frozenset({"bulk", "at"}), lead=25.0),
    System("dramatiq", "dramatiq", ("dramatiq[redis]==2.2.1", HIREDIS), kind="threads", lead=15.0),
    System("huey", "huey", ("huey==3.5.4", "redis>=5", HIREDIS), kind="threads", lead=15.0),
)

#: What the quick form compares with: Go, the two that were fastest, and two that many use.
QUICK = (OURS, GO, "repid", "ardiq", "saq")
