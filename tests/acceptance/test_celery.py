"""Celery's producers and workers beside ours, on one broker: teams move one queue at a time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqtask import App
from amqtask.canvas import primitives
from amqtask.canvas.signature import Signature
from amqtask.errors import ChordError
from tests.acceptance.nodes import Place, alive, descendants
from tests.waiting import eventually

Places = Callable[..., Place]

pytestmark = pytest.mark.exact(
    "the other side is Celery, whose clients raise what a cut does to them"
)

CELERY = str(Path(sys.executable).with_name("celery"))

chord: Any = primitives.chord
group: Any = primitives.group  # its results are looked at without types

APP = """
import os
from celery import Celery
from kombu import Queue

app = Celery("theirs", broker=os.environ["BROKER"], backend="rpc://")
app.conf.task_queues = [Queue("{queue}", durable=True, queue_arguments={arguments})]
app.conf.task_default_queue = "{queue}"
app.conf.task_create_missing_queues = True
app.conf.worker_hijack_root_logger = False
app.conf.broker_connection_retry_on_startup = True

@app.task(name="theirs.add")
def add(x, y):
    return x + y

@app.task(name="theirs.fail")
def fail(what):
    raise ValueError(what)
"""


def celery_folder(at: Place) -> None:
    (at.path / "theirs.py").write_text(
        APP.format(queue=at.queue, arguments={"x-queue-type": "classic"})
    )


def environment(at: Place) -> dict[str, str]:
    return at.environment | {"BROKER": at.broker.url}


@contextlib.contextmanager
def celery_worker(at: Place, queue: str | None = None) -> Iterator[None]:
    """A Celery worker of the folder's app for a queue, the place's own unless said, ready; stopped at the end of the block."""
    log = at.path / "celery.log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [CELERY, "-A", "theirs", "worker", "-P", "solo", "-l", "info", "--without-mingle",
             "--without-gossip", "-Q", queue or at.queue],
            cwd=at.path,
            env=environment(at) | {"C_FORCE_ROOT": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )  # fmt: skip
    try:
        eventually(lambda: " ready." in log.read_text() or worker.poll() is not None, 30)
        yield
    finally:
        family = descendants(worker.pid)
        worker.terminate()
        worker.wait(20)
        eventually(lambda: not alive(family), 5)


def script(at: Place, text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        cwd=at.path,
        env=environment(at),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_celery_producer_and_our_worker(place: Places, kind: str) -> None:
    at = place(type=kind)
    celery_folder(at)
    node = at.node("-c1", "-Q", at.queue)
    shown = script(
        at,
        f"""
        from theirs import app
        from kombu import Exchange, Queue
        # the queue is amqtask's to declare: Celery has no dead letters, so its own declaration would differ
        app.conf.task_queues = [
            Queue({at.queue!r}, Exchange(""), routing_key={at.queue!r}, no_declare=True)
        ]
        options = dict(queue={at.queue!r})
        print(app.send_task("work.add", (1, 2), **options).get(timeout=20))
        print(app.send_task("work.note", ("x",), kwargs={{"seconds": 0.01}}, **options).get(timeout=20))
        results = [app.send_task("work.add", (n, n), **options) for n in range(20)]
        print(sum(result.get(timeout=20) for result in results))
        for name, args in (("work.fail", ("why",)), ("work.nothing", ()), ("work.add", (1,))):
            try:
                app.send_task(name, args, **options).get(timeout=20)
            except Exception as error:
                print(type(error).__name__, "why" in str(error))
        """,
    )
    assert node.stop() == 0
    lines = shown.splitlines()
    assert lines[:3] == ["3", "x", str(2 * sum(range(20)))]
    assert lines[3:] == ["Broken True", "NotRegistered False", "TypeError False"]


def test_our_client_and_a_celery_worker(place: Places) -> None:
    at = place()
    with at.broker.channel() as channel:
        channel.queue_declare(at.queue, durable=True, arguments={"x-queue-type": "classic"})
    celery_folder(at)
    with celery_worker(at):
        app = at.app
        assert app.send_task("theirs.add", (1, 2)).get(timeout=20) == 3
        results = [app.send_task("theirs.add", (n, n)) for n in range(20)]
        assert sum(result.get(timeout=20) for result in results) == 2 * sum(range(20))
        with pytest.raises(ValueError, match="why"):
            app.send_task("theirs.fail", ("why",)).get(timeout=20)


CROSSING = """

from kombu import Exchange
app.conf.task_queues = [Queue("{queue}", Exchange(""), routing_key="{queue}", no_declare=True)]

@app.task(name="cross.over", bind=True)
def over(self, what):
    request = self.request
    if request.retries == 0:
        raise self.retry(countdown=2, exc=KeyError("theirs"))
    return [what, request.retries, request.headers.get("mine"), request.eta is not None]
"""


def test_retries_go_back_and_forth(place: Places) -> None:
    """The first attempt runs in Celery, the second here, the third in Celery."""
    at = place()
    at.declare()
    celery_folder(at)
    with (at.path / "theirs.py").open("a") as theirs:
        theirs.write(CROSSING.format(queue=at.queue))
    result = at.app.send_task("cross.over", ("x",), headers={"mine": "kept"}, priority=4)

    with celery_worker(at):
        eventually(lambda: result.state == "RETRY", 30)
        assert isinstance(result.result, KeyError)
    node = at.node("-c1", "-Q", at.queue)
    at.saw("ours", "x 1 kept")
    node.says("retry scheduled", 10)
    assert node.stop() == 0
    with celery_worker(at):
        assert result.get(timeout=30) == ["x", 2, "kept", True]
    assert at.count("ours") == {"x 1 kept": 1}


BESIDE = """

from kombu import Exchange
app.conf.task_queues = [
    Queue(name, Exchange(""), routing_key=name, no_declare=True) for name in {queues}
]

@app.task(name="theirs.note")
def note(*what):
    with open("ledger", "a") as ledger:
        ledger.write(f"end 0 {{what}}\\n")
"""

FROM_CELERY = """
from celery import chain, group
from theirs import app
o = lambda *args: app.signature("work.add", args, queue={ours!r})
t = lambda *args: app.signature("theirs.add", args, queue={theirs!r})
print((t(1, 2) | o(10) | t(100) | o(1000)).apply_async().get(timeout=30))
print((o(1, 5) | t(2) | group(t(10), o(20) | t(30))).apply_async().get(timeout=30))
heard = app.signature("theirs.note", ("heard",), immutable=True, queue={theirs!r})
broken = app.signature("work.fail", ("why",), immutable=True, queue={ours!r}).on_error(heard)
try:
    (t(1, 2) | broken | t(3) | o(4)).apply_async().get(timeout=30)
except Exception as error:
    print(type(error).__name__)
"""


def test_chains_go_back_and_forth(place: Places) -> None:
    """Each link runs where its task is; both sides' clients get the value of the last, or the failure before it."""
    at = place(more=("theirs",))
    at.declare()
    ours, theirs = at.queues
    (at.path / "theirs.py").write_text(
        APP.format(queue=theirs, arguments={}) + BESIDE.format(queues=at.queues)
    )
    app = at.app

    def o(n: int) -> Any:
        return Signature("work.add", (n,), app=app).set(queue=ours)

    def t(*args: object) -> Any:
        return Signature("theirs.add", args, app=app).set(queue=theirs)

    node = at.node("-c1", "-Q", ours)
    with celery_worker(at, theirs):
        assert (t(1, 2) | o(10) | t(100) | o(1000)).delay().get(timeout=30) == 1113
        assert (o(1) | t(2) | group(o(10), t(20) | o(30))).delay(5).get(timeout=30) == [18, 58]
        heard: Any = Signature("theirs.note", ("told",), app=app, immutable=True).set(queue=theirs)
        broken: Any = Signature("theirs.fail", ("why",), app=app, immutable=True).set(queue=theirs)
        with pytest.raises(ValueError, match="why"):
            (o(1) | broken | t(2) | o(3)).on_error(heard).delay(1).get(timeout=30)
        at.saw("end", "('told',)")
        assert script(at, FROM_CELERY.format(ours=ours, theirs=theirs)).splitlines() == [
            "1113",
            "[18, 58]",
            "Broken",
        ]
        at.saw("end", "('heard',)")
    assert node.stop() == 0


def test_a_chord_has_parts_in_workers_of_celery(place: Places) -> None:
    """Alone, at either end of a chain, of a chord in another, failing at each place; and in ours, when they serve the queue."""
    at = place(more=("theirs",))
    at.declare()
    ours, theirs = at.queues
    settings = json.loads((at.path / "settings.json").read_text())
    (at.path / "settings.json").write_text(json.dumps({**settings, "task_celery_queues": [theirs]}))
    (at.path / "theirs.py").write_text(
        APP.format(queue=theirs, arguments={}) + BESIDE.format(queues=at.queues)
    )
    node = at.node("-c1", "-Q", ours)
    with App(
        "caller",
        topology=at.path / "topology.yaml",
        broker_url=at.broker.url,
        task_default_queue=ours,
        task_celery_queues=(theirs,),
    ) as app:

        def o(name: str, *args: object, **options: Any) -> Any:
            return Signature(f"work.{name}", args, app=app, **options).set(queue=ours)

        def t(name: str, *args: object, **options: Any) -> Any:
            return Signature(f"theirs.{name}", args, app=app, **options).set(queue=theirs)

        def together(*header: Any) -> Any:
            values: Any = Signature("celery.accumulate", (), {"index": 0}, app=app)
            return chord(header, values.set(queue=ours))

        def add() -> Any:
            return t("add", 1, 1)

        with celery_worker(at, theirs):
            mixed = together(
                add(), o("add", 1, 3), add() | o("add", 3), o("add", 1, 1) | t("add", 4)
            )
            links = add() | t("add", 1) | o("add", 1) | t("add", 1)
            nested = together(together(add(), links), t("add", 2, 2)).delay()
            assert mixed.delay().get(timeout=30) == [2, 4, 5, 6]
            assert nested.get(timeout=30) == [[2, 5], 4]
            theirs_fails, ours_fails = (each("fail", "why", immutable=True) for each in (t, o))
            failing = [
                theirs_fails,
                theirs_fails | t("add", 1),
                theirs_fails | o("add", 1),
                add() | theirs_fails | t("add", 1),
                add() | ours_fails | t("add", 1),
                o("add", 1, 1) | theirs_fails,
            ]
            for sent in [together(each, add()).delay() for each in failing]:
                with pytest.raises(ChordError, match="Dependency"):
                    sent.get(timeout=30)
        moved = [
            chord([o("add", 1, 1).set(queue=theirs)], o("note").set(queue=ours)),
            chord([o("fail", "why").set(queue=theirs)], o("note")),
        ]
        good, bad = [each.delay() for each in moved]
        both = at.node("-c1", "-Q", theirs)
        assert good.get(timeout=30) == [2]
        with pytest.raises(ChordError, match="failed in a Celery worker"):
            bad.get(timeout=30)
    assert both.stop() == 0
    assert node.stop() == 0
