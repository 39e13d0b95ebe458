"""Results between real processes: values, failures, states, many threads, forks, callers that vanish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from amqtask.errors import AmqtaskError
from tests.acceptance.nodes import Node, Place
from tests.waiting import eventually

Places = Callable[..., Place]


@pytest.fixture
def at(place: Places) -> Place:
    return place()


@pytest.fixture
def node(at: Place) -> Iterator[Node]:
    """A worker of two children that are the same at the end."""
    node = at.node("-c2", "-Q", at.queue)
    before = node.children()
    yield node
    assert node.children() == before
    assert node.stop() == 0
    at.all_settled()
    assert not node.records("a callback on the I/O thread failed"), node.output


@pytest.mark.usefixtures("node")
def test_an_exception_is_of_its_own_class_with_the_remote_traceback(at: Place) -> None:
    shown = at.script(
        """
import traceback, work
try:
    work.fail.delay("why").get(timeout=20)
except work.Broken as error:
    print(error.args, error.code)
    print("".join(traceback.format_exception(error)))
"""
    )
    assert "('why', 42) 42" in shown
    assert "in fail\n    raise Broken(what, 42)" in shown
    assert "work.py" in shown


@pytest.mark.usefixtures("node")
def test_results_that_cannot_be_sent_are_failures(at: Place) -> None:
    with pytest.raises(AmqtaskError, match="object"):
        at.send("unwritable").get(timeout=10)
    with pytest.raises(AmqtaskError, match="message_max_bytes"):
        at.send("large", 17 << 20).get(timeout=20)
    with pytest.raises(Exception, match="Grumpy"):
        at.send("grumble").get(timeout=10)
    with pytest.raises(Exception, match="not now"):
        at.send("steer", "reject").get(timeout=10)
    assert len(at.send("large", 4 << 20).get(timeout=20)) == 4 << 20


@pytest.mark.usefixtures("node")
def test_states(at: Place) -> None:
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    assert (result.state, result.ready()) == ("PENDING", False)
    at.release("go")
    assert result.get(timeout=10) == "x"
    assert (result.state, result.successful(), result.failed()) == ("SUCCESS", True, False)


def test_track_started(place: Places) -> None:
    at = place(task_track_started=True)
    node = at.node("-c1", "-Q", at.queue)
    result = at.send("hold", "x", "go")
    eventually(lambda: result.state == "STARTED", 10)
    at.release("go")
    assert result.get(timeout=10) == "x"
    assert node.stop() == 0


def test_extended_results_tell_what_ran_where(place: Places) -> None:
    at = place(result_extended=True, task_track_started=True)
    node = at.node("-c1", "-Q", at.queue)
    result = at.app.send_task("work.add", (1,), {"y": 2})
    before = datetime.now(UTC)

    assert result.get(timeout=20) == 3

    assert (result.name, result.args, result.kwargs) == ("work.add", [1], {"y": 2})
    assert (result.retries, result.queue) == (0, at.queue)
    assert result.worker is not None
    assert "@" in result.worker
    assert result.date_done is not None
    assert abs(result.date_done - before) < timedelta(seconds=60)
    failed = at.send("fail", "why")
    with pytest.raises(AmqtaskError):
        failed.get(timeout=10)
    assert (failed.args, failed.meta["worker"], failed.exists()) == (["why"], result.worker, True)
    # what does not fit into a message beside its arguments comes without them
    large = at.app.send_task("work.note", ("x" * (9 << 20),))
    assert large.get(timeout=20) == "x" * (9 << 20)
    assert (large.args, large.name) == (None, "work.note")
    assert node.stop() == 0


def test_plain_results_tell_when_they_ended(at: Place, node: Node) -> None:
    assert node.children()
    result = at.send("add", 1, 2)
    assert (result.exists(), result.date_done) == (False, None)
    assert result.get(timeout=10) == 3
    assert result.date_done is not None
    assert (result.name, result.args, result.worker, result.queue) == ("work.add", None, None, None)


def test_a_handle_that_a_task_returns_is_celerys_tuple(at: Place, node: Node) -> None:
    assert node.children()
    form = at.send("starts").get(timeout=10)
    assert form == [[form[0][0], None], None]


@pytest.mark.usefixtures("node")
def test_ignored_results_need_no_reply_queue(at: Place) -> None:
    names = at.send_notes(50)
    at.everything_done(names)
    if at.broker.management_url is not None:
        assert not [q for q in at.broker.queues() if at.app._connections._id in q["name"]]
    # with the first result that is wanted there is one
    assert at.send("add", 1, 2).get(timeout=10) == 3


@pytest.mark.usefixtures("node")
def test_fifty_threads(at: Place) -> None:
    shown = at.script(
        """
import threading, work
wrong = []
def run(number):
    for i in range(20):
        if work.add.delay(number, i).get(timeout=30) != number + i:
            wrong.append((number, i))
threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(wrong), threading.active_count())
work.app.close()
"""
    )
    assert shown.startswith("0 ")


@pytest.mark.usefixtures("node")
def test_a_fork_after_the_first_publish(at: Place) -> None:
    shown = at.script(
        """
import os, work
before = [work.add.delay(n, 0) for n in range(5)]
assert work.add.delay(1, 2).get(timeout=20) == 3
pid = os.fork()
if pid == 0:
    try:
        mine = [work.add.delay(n, 100).get(timeout=20) for n in range(20)]
        with work.app.batch():
            more = [work.add.delay(n, 1000) for n in range(20)]
        ok = mine == list(range(100, 120)) and [r.get(timeout=20) for r in more] == list(range(1000, 1020))
        work.app.close()
        os._exit(0 if ok else 2)
    except BaseException:
        import traceback; traceback.print_exc()
        os._exit(3)
ours = [work.add.delay(n, 200).get(timeout=20) for n in range(20)]
assert ours == list(range(200, 220))
assert [r.get(timeout=20) for r in before] == list(range(5))
print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )
    assert shown == "child 0\n"


@pytest.mark.usefixtures("node")
def test_a_caller_killed_before_its_result_comes(at: Place) -> None:
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import work; work.hold.delay('x', 'go').get(timeout=60)",
        ],
        cwd=at.path,
        env=at.environment,
        stdin=subprocess.DEVNULL,
    )
    at.saw("start", "x")
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    at.release("go")
    at.saw("end", "x")
    assert at.send("add", 1, 2).get(timeout=10) == 3
    at.all_settled()
    assert at.depth(at.dead) == 0


@pytest.mark.usefixtures("node")
def test_asyncio_callers(at: Place) -> None:
    shown = at.script(
        """
import asyncio, work
async def main():
    results = [await work.add.adelay(n, 1) for n in range(50)]
    print(sum([await result.aget(timeout=20) for result in results]))
    try:
        await (await work.fail.adelay("why")).aget(timeout=20)
    except work.Broken as error:
        print(error.code)
    await work.app.aclose()
asyncio.run(main())
"""
    )
    assert shown.split() == [str(sum(range(1, 51))), "42"]


@pytest.mark.usefixtures("node")
def test_the_command_line_calls(at: Place) -> None:
    from tests.cli.running import AMQTASK

    done = subprocess.run(
        [AMQTASK, "-A", "work", "call", "work.add", "-a", "[1, 2]", "--wait"],
        cwd=at.path,
        env=at.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout) == 3
