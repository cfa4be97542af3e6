"""The checks of the fault suite can fail: ledgers made up by hand, and what they amount to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.ledger import Event, Ledger, Remains, Verdict, evaluate, group_of
from tests.faults.report import Report, table

# process 1 sends, 2 and 3 work
ACK = ("ack", 1, 0.0)


def judge(history, remains=None, **options):
    events = [Event(task_id, *event) for task_id, *event in history]
    return evaluate(events, remains or Remains(), **options)


def story(task_id, *events):
    return [(task_id, *event) for event in events]


START, END = ("start", 2, 1.0), ("end", 2, 1.1)
AGAIN, AGAIN_END = ("start", 3, 9.0), ("end", 3, 9.1)
FAIL = ("fail", 2, 1.1)
KILL = ("-", "kill", 2, 1.3)
FREEZE = ("-", "freeze", 2, 1.05)
DARK = ("-", "dark", 2, 1.05)
LIGHT = ("-", "light", 2, 9.0)
LATE_KILL = ("-", "kill", 2, 5.0)

FAULTLESS = {
    "done": (story("quick-1", ACK, START, END), Remains()),
    "failed once, then done": (story("fails-1", ACK, START, FAIL, AGAIN, AGAIN_END), Remains()),
    "refused and not run": (story("quick-1", ("refused", 1, 0.0)), Remains()),
    "refused and run all the same": (story("quick-1", ("refused", 1, 0.0), START, END), Remains()),
    "archived as it asked for": (
        story("bad-1", ACK, START, END),
        Remains(archived={"bad-1"}, hashes={"bad-1"}),
    ),
    "kept": (story("keep-1", ACK, START, END), Remains(completed={"keep-1"}, hashes={"keep-1"})),
    "running when its worker was killed": ([*story("quick-1", ACK, START, AGAIN, AGAIN_END), KILL], Remains()),
    "unsettled when its worker was killed": (
        [*story("quick-1", ACK, START, END, AGAIN, AGAIN_END), KILL],
        Remains(),
    ),
    "frozen while it ran": ([*story("quick-1", ACK, START, AGAIN, AGAIN_END, ("end", 2, 9.2)), FREEZE], Remains()),
    "frozen before it started": (
        [*story("quick-1", ACK, ("start", 3, 2.0), ("end", 3, 2.1), ("start", 2, 3.0), ("end", 2, 3.1)), FREEZE],
        Remains(),
    ),
    "given back at a shutdown": (
        [*story("slow-1", ACK, START, ("cancelled", 2, 2.0), AGAIN, AGAIN_END), ("-", "stop", 2, 1.5)],
        Remains(),
    ),
    "cut off while it ran": (
        [*story("quick-1", ACK, START, AGAIN, AGAIN_END, ("end", 2, 9.2)), DARK, LIGHT],
        Remains(),
    ),
    "started while cut off": (
        [*story("quick-1", ACK, ("start", 2, 2.0), AGAIN, AGAIN_END, ("end", 2, 9.2)), DARK, LIGHT],
        Remains(),
    ),
    "in its group": (
        story("group-1", ACK),
        Remains(groups={"group-1": [group_of("group-1")]}, hashes={"group-1"}),
    ),
    "archived though never run": (
        story("junk-1", ACK),
        Remains(archived={"junk-1"}, hashes={"junk-1"}),
    ),
    "killed at its wanted failure": (
        [*story("fails-1", ACK, START, FAIL, AGAIN, AGAIN_END), KILL],
        Remains(),
    ),
}


@pytest.mark.parametrize(("history", "remains"), FAULTLESS.values(), ids=FAULTLESS)
def test_faultless(history, remains):
    verdict = judge(history, remains)
    assert verdict.faultless, verdict


FAULTY = {
    "lost before it ran": ("lost", story("quick-1", ACK), Remains()),
    "lost while it ran": ("lost", story("quick-1", ACK, START), Remains()),
    "lost when its worker was killed": ("lost", [*story("quick-1", ACK, START), KILL], Remains()),
    "lost instead of archived": ("lost", story("bad-1", ACK, START, END), Remains()),
    "lost instead of kept": ("lost", story("keep-1", ACK, START, END), Remains()),
    "run twice": ("dup", story("quick-1", ACK, START, END, AGAIN, AGAIN_END), Remains()),
    "run twice at once": ("dup", story("quick-1", ACK, START, AGAIN, END), Remains()),
    "refused and run twice": ("dup", story("quick-1", ("refused", 1, 0.0), START, END, AGAIN, AGAIN_END), Remains()),
    "failed twice": ("dup", story("fails-1", ACK, START, FAIL, ("start", 3, 2.0), FAIL, AGAIN, END), Remains()),
    "settled long before the kill": (
        "dup",
        [*story("quick-1", ACK, START, END, AGAIN, AGAIN_END), LATE_KILL],
        Remains(),
    ),
    "another worker was killed": (
        "dup",
        [*story("quick-1", ACK, START, END, AGAIN, AGAIN_END), ("-", "kill", 4, 1.1)],
        Remains(),
    ),
    "started anew by the one that was frozen": (
        "dup",
        [*story("quick-1", ACK, START, AGAIN, AGAIN_END, ("start", 2, 9.5)), FREEZE],
        Remains(),
    ),
    "run thrice for one kill": (
        "dup",
        [*story("quick-1", ACK, START, AGAIN, AGAIN_END, ("start", 3, 10.0)), KILL],
        Remains(),
    ),
    "given back, and run twice": (
        "dup",
        [
            *story("slow-1", ACK, START, ("cancelled", 2, 2.0), AGAIN, AGAIN_END, ("start", 4, 9.5), ("end", 4, 9.6)),
            ("-", "stop", 2, 1.5),
        ],
        Remains(),
    ),
    "cancelled without a shutdown": (
        "dup",
        story("slow-1", ACK, START, ("cancelled", 2, 2.0), AGAIN, AGAIN_END),
        Remains(),
    ),
    "settled long before it was cut off": (
        "dup",
        [*story("quick-1", ACK, START, END, AGAIN, AGAIN_END), ("-", "dark", 2, 5.0), ("-", "light", 2, 8.0)],
        Remains(),
    ),
    "not in its group": ("lost", story("group-1", ACK), Remains()),
    "in two groups": (
        "dup",
        story("group-1", ACK),
        Remains(groups={"group-1": [group_of("group-1"), "other"]}, hashes={"group-1"}),
    ),
    "run though in a group": (
        "dup",
        story("group-1", ACK, START, END),
        Remains(groups={"group-1": [group_of("group-1")]}, hashes={"group-1"}),
    ),
    "not archived": ("lost", story("junk-1", ACK), Remains()),
    "waits for ever": ("stuck", story("quick-1", ACK), Remains(waiting={"pending": {"quick-1"}}, hashes={"quick-1"})),
    "active for ever": (
        "stuck",
        story("quick-1", ACK, START),
        Remains(waiting={"active": {"quick-1"}}, hashes={"quick-1"}),
    ),
    "done, and still active": ("stuck", story("quick-1", ACK, START, END), Remains(waiting={"active": {"quick-1"}})),
    "in no list": ("stuck", story("quick-1", ACK, START), Remains(hashes={"quick-1"})),
    "archived without having asked": (
        "archived",
        story("quick-1", ACK, START),
        Remains(archived={"quick-1"}, hashes={"quick-1"}),
    ),
}


@pytest.mark.parametrize(("what", "history", "remains"), FAULTY.values(), ids=FAULTY)
def test_faulty(what, history, remains):
    verdict = judge(history, remains)
    assert not verdict.faultless
    found = {name for name in ("lost", "dup", "stuck", "archived") if getattr(verdict, name)}
    assert found == {what}
    (task_id,) = getattr(verdict, what)
    assert task_id == history[0][0]


def test_a_kill_makes_no_more_tasks_run_again_than_could_run_at_once():
    history = [e for n in range(3) for e in story(f"quick-{n}", ACK, START, AGAIN, AGAIN_END)]
    assert judge([*history, KILL], concurrency=3).faultless
    assert set(judge([*history, KILL], concurrency=2).dup) == {"process 2"}


def test_what_is_counted():
    history = [
        *story("quick-1", ACK, START, AGAIN, AGAIN_END),
        *story("quick-2", ("refused", 1, 0.0)),
        *story("fails-1", ACK, START, FAIL, AGAIN, AGAIN_END),
        *story("later-1", ACK, AGAIN, AGAIN_END),
        KILL,
    ]
    verdict = judge(history)
    assert (verdict.acknowledged, verdict.refused, verdict.reruns) == (3, 1, 1)
    assert (verdict.rerun_after, verdict.longest_wait) == (pytest.approx(7.7), 1.0)


SOUND = Report(fault="F", seed=1, verdict=Verdict(), struck=1, recovery=0.0, exits=0)
UNSOUND = {
    "lost": ({"verdict": Verdict(lost={"quick-1": "gone"})}, "LOST quick-1: gone"),
    "duplicate": ({"verdict": Verdict(dup={"quick-1": "twice"})}, "DUP quick-1: twice"),
    "stuck": ({"verdict": Verdict(stuck={"quick-1": "still"})}, "STUCK quick-1: still"),
    "refused": ({"verdict": Verdict(refused=1)}, ""),
    "exit": ({"exits": 1}, ""),
    "problem": ({"problems": ["smoke"]}, "smoke"),
    "the fault never struck": ({"struck": 0}, "never struck"),
}


@pytest.mark.parametrize(("changed", "told"), UNSOUND.values(), ids=UNSOUND)
def test_a_report_fails(changed, told):
    assert SOUND.passed
    report = replace(SOUND, **changed)
    assert not report.passed
    assert told in report.details()
    assert "FAILED" in table([report])


def test_lines_are_kept(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.write("quick-1", "start")
    ledger.write("-", "kill", 77)
    first, second = ledger.read()
    ledger.close()
    assert (first.task_id, first.name, second.pid) == ("quick-1", "start", 77)
    assert first.at <= second.at
