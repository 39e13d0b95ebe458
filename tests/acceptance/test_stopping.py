"""Signals under load: what runs ends as each signal promises, the rest goes back, nothing runs twice, nothing is left."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]

POOLS = pytest.mark.parametrize("flags", ["-c2", "-Psolo"], ids=["prefork", "solo"])


@POOLS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_warm_stop_under_load(place: Places, flags: str, number: signal.Signals) -> None:
    at = place(type="quorum")
    node = at.node(flags, "-Q", at.queue)
    names = at.send_notes(1000, 0.002)
    at.finished(60)

    assert node.stop(number) == 0

    once = at.count("end")
    assert at.count("start") == once == Counter(set(once))
    assert len(once) + at.depth() == len(names)
    assert at.depth(at.dead) == 0
    # what went back did not come back damaged: the next node does all of it, once
    second = at.node(flags, "-Q", at.queue)
    at.everything_done(names)
    assert second.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)


def test_warm_stops_cost_no_attempt(place: Places) -> None:
    at = place(type="quorum", queue={"delivery_limit": 3})
    at.declare()
    names = at.send_notes(400, 0.005)
    for number in range(1, 6):
        node = at.node("-c1", "-Q", at.queue)
        at.finished(number * 20)
        assert node.stop() == 0
    node = at.node("-c2", "-Q", at.queue)
    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == Counter(names)
    assert at.depth(at.dead) == 0


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"], ids=["prefork", "solo"])
def test_a_warm_stop_waits_for_what_runs(place: Places, flags: str) -> None:
    at = place()
    node = at.node(flags, "--prefetch-multiplier", "4", "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    at.send_notes(8)
    node.kill(signal.SIGTERM)
    eventually(lambda: at.depth() == 8, 10, interval=0.05)
    assert node.process.poll() is None
    at.release("go")
    assert node.wait() == 0
    assert result.get(timeout=10) == "x"
    assert at.count("start")["x"] == 1


@POOLS
@pytest.mark.parametrize("numbers", [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT]])
def test_a_cold_stop_gives_back_what_runs(
    place: Places, flags: str, numbers: list[signal.Signals]
) -> None:
    at = place()
    node = at.node(flags, "--prefetch-multiplier", "4", "-Q", at.queue)
    at.send("hold", "x", "never", ignore_result=True)
    at.saw("start", "x")
    at.send("hold", "y", "never", ignore_result=True)
    family = node.family()
    for number in numbers[:-1]:
        node.kill(number)
        if flags == "-Psolo":
            eventually(lambda: at.depth() == 1, 5)  # y is given back: the stop has begun
        else:
            node.says("warm shutdown")
    node.kill(numbers[-1])
    assert node.wait(10) == 0
    node.gone(family)
    assert at.depth() == 2
    assert at.depth(at.dead) == 0


def test_a_warm_stop_turns_cold(place: Places) -> None:
    at = place()
    node = at.node("-c1", "--shutdown-timeout", "0.5", "-Q", at.queue)
    at.send("hold", "x", "never", ignore_result=True)
    at.saw("start", "x")
    assert node.stop(timeout=10) == 0
    assert node.records("shutdown timeout, stopping cold")
    assert at.depth() == 1


@POOLS
def test_hup_under_load_loses_nothing_and_runs_new_code(place: Places, flags: str) -> None:
    at = place(type="quorum")
    node = at.node(flags, "-Q", at.queue)
    old = node.children()
    names = at.send_notes(600, 0.002)
    at.finished(50)
    text = (at.path / "work.py").read_text()
    (at.path / "work.py").write_text(text.replace('return "one"', 'return "two"'))

    node.kill(signal.SIGHUP)
    node.wait_ready(times=2)
    if flags != "-Psolo":
        eventually(lambda: not set(old) & set(node.children()), 10)

    assert at.send("version").get(timeout=20) == "two"
    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)
    assert at.depth() == at.depth(at.dead) == 0


def test_hup_with_broken_code_keeps_the_old(place: Places) -> None:
    at = place()
    node = at.node("-c1", "-Q", at.queue)
    old = node.children()
    (at.path / "work.py").write_text("import nothing_of_this_name\n")
    node.kill(signal.SIGHUP)
    (record,) = node.says("reload failed, the old code goes on")
    assert "nothing_of_this_name" in record["reason"]
    assert at.send("version").get(timeout=20) == "one"
    assert node.children() == old
    assert "Traceback" not in node.output
    assert node.stop() == 0


@POOLS
def test_usr1_dumps_the_stacks(place: Places, flags: str) -> None:
    at = place()
    node = at.node(flags, "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    node.kill(signal.SIGUSR1)
    eventually(lambda: "in wait_for" in node.output and "in hold" in node.output, 10)
    at.release("go")
    assert result.get(timeout=10) == "x"
    assert node.stop() == 0


@POOLS
def test_reload_picks_up_an_edited_file(place: Places, flags: str) -> None:
    at = place()
    node = at.node(flags, "--reload", "-Q", at.queue)
    assert at.send("version").get(timeout=20) == "one"
    text = (at.path / "work.py").read_text()
    changed = text.replace('return "one"', 'return "two"')

    def edited() -> bool:
        # again and again: the watcher may not have begun to watch
        (at.path / "work.py").write_text(changed)
        return bool(at.send("version").get(timeout=20) == "two")

    eventually(edited, 30, interval=0.5)
    assert node.stop() == 0
