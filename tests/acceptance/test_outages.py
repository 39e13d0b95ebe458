"""A broker that restarts, is killed or freezes under load: work resumes by itself, nothing is lost, stopping never hangs."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from amqtask.core.verdicts import STREAM
from tests.acceptance.nodes import Node, Place, background
from tests.brokers import OwnBroker
from tests.cli.running import run_here
from tests.waiting import eventually

Places = Callable[..., Place]


def publish_until(at: Place, stop: threading.Event, sent: list[str]) -> None:
    """Publish without a pause; each name is in ``sent`` once ``delay`` has returned for it."""
    number = 0
    while not stop.is_set():
        name = f"live-{number}"
        number += 1
        at.send("note", name, 0.001, ignore_result=True)
        sent.append(name)


def down_and_up(at: Place, broker: OwnBroker, node: Node, down: Callable[[], None]) -> float:
    """Take the broker down under load and start it again; seconds until a task runs again after it answered."""
    down()
    broker.start()
    back = time.monotonic()
    done = sum(at.count("end").values())
    at.finished(done + 1, 15)
    took = time.monotonic() - back
    assert node.process.poll() is None
    return took


def test_restarts_and_a_kill_under_load(place: Places, outage: OwnBroker) -> None:
    at = place(on=outage, type="quorum")
    node = at.node("-c", "2", "-Q", at.queue)
    children = node.children()
    names = at.send_notes(3000, 0.001)
    stop, sent = threading.Event(), list[str]()
    with background(lambda: publish_until(at, stop, sent)):
        try:
            at.finished(50)
            # First a clean restart: a broker killed right after a queue was declared may forget the queue (3.10 does).
            after_stop = down_and_up(at, outage, node, outage.stop)
            at.finished(sum(at.count("end").values()) + 50)
            after_kill = down_and_up(at, outage, node, outage.kill)
        finally:
            stop.set()

    at.everything_done(names + sent)
    assert node.children() == children
    assert node.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0
    assert (after_stop < 5, after_kill < 5) == (True, True), (after_stop, after_kill)
    # What ran again: the prefetch of each child and what was sent again without its confirm, for each outage.
    again = sum(at.count("start").values()) - len(set(names + sent))
    assert again <= 2 * 2 * 64, again


def test_a_kill_while_delayed_tasks_come_due(place: Places, outage: OwnBroker) -> None:
    at = place(on=outage, type="quorum")
    node = at.node("-c", "2", "-Q", at.queue)
    names = [f"due-{number}" for number in range(400)]
    with at.app.batch():
        for name in names:
            at.send("note", name, countdown=2.0, ignore_result=True)
    at.finished(20)
    outage.kill()
    outage.start()
    at.everything_done(names)
    assert node.stop() == 0
    # what the two children held, and what two steps of the ladder had sent on without an answer yet
    assert sum(at.count("start").values()) - len(names) <= 2 * 64 + 2 * 32


@pytest.mark.parametrize(
    ("how", "flags"),
    [("down", "-c2"), ("frozen", "-c2"), ("frozen", "-Psolo")],
    ids=["down", "frozen", "frozen-solo"],
)
def test_term_without_a_broker(place: Places, outage: OwnBroker, how: str, flags: str) -> None:
    at = place(on=outage)
    node = at.node(flags, "-Q", at.queue)
    assert at.send("add", 1, 2).get(timeout=20) == 3  # both connections are open
    if how == "down":
        outage.stop()
        node.says("no broker connection", 10)
    else:
        outage.pause()

    # 3 s for the answer to a cancel, 10 s for confirms that may still come, 2 or 3 s for each connection to close: well below
    # the 30 s after which process managers kill
    assert node.stop(timeout=22) == 0


def test_term_with_a_running_task_while_the_broker_is_frozen(
    place: Places, outage: OwnBroker
) -> None:
    at = place(on=outage)
    node = at.node("-c", "1", "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    outage.pause()
    node.kill(signal.SIGTERM)
    at.release("go")
    at.saw("end", "x")
    outage.resume()
    # the broker is back in time: the result is confirmed, the message acked, and the node ends well
    assert node.wait() == 0
    assert result.get(timeout=10) == "x"
    assert at.depth() == 0


def test_a_node_starts_before_its_broker(place: Places, outage: OwnBroker) -> None:
    at = place(on=outage)
    at.declare()
    outage.stop()
    node = at.node("-c", "1", "-Q", at.queue, ready=False)
    node.says("waiting for the broker")
    assert node.process.poll() is None
    outage.start()
    node.wait_ready()
    assert at.send("add", 1, 2).get(timeout=20) == 3
    assert node.stop() == 0


def test_a_node_waits_for_a_virtual_host_that_is_being_started(
    place: Places, outage: OwnBroker
) -> None:
    at = place(on=outage)
    at.declare()
    outage.ctl("eval", 'rabbit_vhost_sup_sup:stop_and_delete_vhost(<<"/">>).')
    node = at.node("-c", "1", "-Q", at.queue, ready=False)
    (waits,) = node.says("waiting for the broker")
    assert "541" in waits["reason"]
    outage.ctl("restart_vhost")
    node.wait_ready()
    assert at.send("add", 1, 2).get(timeout=20) == 3
    assert node.stop() == 0


def test_results_arrive_across_a_restart(place: Places, outage: OwnBroker) -> None:
    at = place(on=outage)
    node = at.node("-c", "2", "-Q", at.queue)
    results = [at.send("hold", f"n{number}", "go") for number in range(4)]
    eventually(lambda: sum(at.count("start").values()) >= 2, 20)
    outage.stop()
    at.release("go")
    eventually(lambda: sum(at.count("end").values()) >= 2, 20)
    outage.start()
    assert [result.get(timeout=30) for result in results] == ["n0", "n1", "n2", "n3"]
    assert node.stop() == 0


DECLARE = """
import os, sys
import pika
from amqtask.amqp.stream import verdict_stream
from amqtask.settings import Settings

channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
verdicts = verdict_stream(Settings())
channel.queue_declare(sys.argv[2], durable=True, arguments={"x-queue-type": "stream"})
channel.queue_declare(verdicts.name, durable=True, arguments=verdicts.arguments)
os._exit(0)  # to close the connection would take the time that the broker needs to write them down
"""


def test_streams_of_which_a_killed_broker_has_kept_the_names(
    place: Places, fresh_broker: OwnBroker
) -> None:
    """Everything else is declared and works, it is said what to do, and that does it."""
    at = place(on=fresh_broker, more=["stream"])
    lost = at.queues[1]
    file = at.path / "topology.yaml"
    file.write_text(f"version: 1\nqueues: {{{lost}: {{type: stream}}, {at.queue}: {{}}}}\n")
    subprocess.run([sys.executable, "-c", DECLARE, fresh_broker.url, lost], check=True)
    fresh_broker.kill(kept=False)
    fresh_broker.start()

    def apply() -> subprocess.CompletedProcess[str]:
        return run_here(at.path, at.environment, "topology", "apply", "topology.yaml")

    applied = apply()
    told = dict(
        zip([STREAM, lost], re.findall(r"`rabbitmqctl (.*?)`", applied.stderr), strict=False)
    )
    assert f"+ queue {at.queue}" in applied.stdout
    assert f"stream {STREAM}" not in applied.stdout
    assert "Until then each node counts crashes for itself" in applied.stderr
    if lost in told:  # RabbitMQ 4.3 lets a stream that is lost be declared
        assert applied.returncode == 1
        assert "lost the queue" in applied.stderr.splitlines()[-1]
        fresh_broker.ctl(*shlex.split(told[lost]))
    else:
        assert applied.returncode == 0
    node = at.node("-c1", "-Q", at.queue, "--no-declare", ready=False)
    found = at.command("doctor")
    assert found.returncode == 1
    assert told[STREAM] in found.stdout
    (unusable,) = node.says(
        "the stream of verdicts cannot be used; what other nodes know of crashes and revokes may be missing here"
    )
    assert told[STREAM] in unusable["reason"]
    assert at.send("add", 1, 2).get(timeout=20) == 3

    fresh_broker.ctl(*shlex.split(told[STREAM]))
    applied = apply()
    assert (applied.returncode, applied.stderr) == (0, "")
    assert f"+ stream {STREAM}" in applied.stdout
    assert node.stop() == 0
