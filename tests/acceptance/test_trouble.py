"""What can be wrong with queues, apps and logins: work resumes, or one sentence says why not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pika.exceptions
import pytest

from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("flags", ["-c2", "-Psolo"])
def test_a_deleted_queue_is_declared_and_consumed_again(
    place: Places, kind: str, flags: str
) -> None:
    at = place(type=kind)
    node = at.node(flags, "-Q", at.queue)
    before = node.children()
    with at.broker.channel() as channel:
        channel.queue_delete(at.queue)
    node.says("the broker cancelled a consumer; consuming again on a new channel")
    eventually(lambda: consumers(at) == (2 if flags == "-c2" else 1), 10, interval=0.05)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == before
    assert node.stop() == 0


def consumers(at: Place) -> int:
    """Consumers of the queue; 0 while there is no queue."""
    try:
        with at.broker.channel() as channel:
            found = channel.queue_declare(at.queue, passive=True)
            return int(found.method.consumer_count)
    except pika.exceptions.ChannelClosedByBroker:
        return 0


def test_without_declaring_a_deleted_queue_is_waited_for(place: Places) -> None:
    at = place(more=["other"])
    at.declare()
    node = at.node("-c1", "--no-declare", "-Q", ",".join(at.queues))
    running = at.send("hold", "x", "go", queue=at.queues[1])
    at.saw("start", "x")
    with at.broker.channel() as channel:
        channel.queue_delete(at.queue)
    # said once, in a sentence; the other queue goes on, and what runs from it runs once
    (record,) = node.says("a queue cannot be consumed; trying again until it can", 5)
    assert at.queue in record["reason"]
    at.release("go")
    assert running.get(timeout=5) == "x"
    assert at.send("add", 1, 2, queue=at.queues[1]).get(timeout=5) == 3
    at.declare()
    assert at.send("add", 1, 2).get(timeout=5) == 3
    assert len(node.records("a queue cannot be consumed; trying again until it can")) == 1
    assert at.count("start")["x"] == 1
    assert node.stop() == 0


def test_a_queue_that_comes_back_different_is_consumed_as_it_is(place: Places) -> None:
    at = place()
    node = at.node("-c1", "-Q", at.queue)

    def replaced() -> bool:
        try:
            with at.broker.channel() as channel:
                channel.queue_delete(at.queue)
                channel.queue_declare(at.queue, durable=True, arguments={"x-max-length": 7})
        except pika.exceptions.ChannelClosedByBroker:
            return False  # the node was faster
        return True

    eventually(replaced, 10)
    (record, *_) = node.says(
        "the broker refused a declaration; consuming goes on with what is there"
    )
    assert at.queue in record["reason"]
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.stop() == 0


def one_sentence(at: Place, *flags: str) -> str:
    """Run a worker that must refuse to start; what it says."""
    done = at.worker(*flags)
    assert done.returncode not in (0, -signal.SIGKILL), done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = [json.loads(line) if line.startswith("{") else {"event": line} for line in lines]
    wrong = [line["event"] for line in said if line.get("level", "error") == "error"]
    assert len(wrong) == 1, done.stderr
    assert str(wrong[0]).rstrip().endswith((".", "?"))
    return str(wrong[0])


def test_a_differing_live_queue(place: Places) -> None:
    at = place(queue={"max_length": 5, "dead_letter": False})
    with at.broker.channel() as channel:
        channel.queue_declare(at.queue, durable=True, arguments={"x-max-length": 7})
    for flags in (("-c1",), ("-Psolo",)):
        said = one_sentence(at, *flags)
        assert at.queue in said
        assert "7" in said
        assert "5" in said
    with at.broker.channel() as channel:
        channel.queue_delete(at.queue)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("def x(:", "syntax"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "work"),
        ("import os; os._exit(7)", "exit code 7"),
    ],
)
@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_an_app_that_cannot_be_imported(place: Places, code: str, says: str, flags: str) -> None:
    at = place()
    (at.path / "work.py").write_text(code + "\n")
    assert says in one_sentence(at, flags)


def test_a_missing_queue(place: Places) -> None:
    at = place()
    assert at.queue in one_sentence(at, "--no-declare", "-Q", at.queue)
    assert "no-such-queue" in one_sentence(at, "-Q", "no-such-queue")


def test_a_refused_login(place: Places) -> None:
    at = place()
    said = one_sentence(at, "-b", at.broker.url.replace("guest:guest@", "guest:secret-word@"))
    assert "refused the login" in said
    assert "secret-word" not in said
    said = one_sentence(at, "-b", at.broker.url.rpartition("/")[0] + "/no-such-vhost")
    assert "no-such-vhost" in said


def test_a_topology_with_a_mistake(place: Places) -> None:
    at = place()
    (at.path / "topology.yaml").write_text("version: 1\nqueues: {a: {tipe: classic}}\n")
    said = one_sentence(at)
    assert "tipe" in said
    assert "topology.yaml" in said
