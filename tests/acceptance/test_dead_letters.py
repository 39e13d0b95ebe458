"""Every way a message can die, on real nodes: its letter says why, ``amqtask dead`` finds it, and sent back it runs."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqtask.errors import PublishNacked, TaskRevokedError
from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]

JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}
PICKLE = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
LONG_AGO = "2020-01-01T00:00:00+00:00"

# A task that fails in the way it is asked to, until somebody has mended what was wrong.
MENDABLE = """
from amqtask import is_aborted


@app.task
def deliver(what: str, how: str) -> str:
    log("start", what)
    if (HERE / what).exists():  # once
        (HERE / what).unlink()
        os._exit(3)
    if not (HERE / "mended").exists():
        if how == "raise":
            raise Broken(what, 42)
        if how == "crash":
            os._exit(3)
        if how == "hang":
            time.sleep(60)
        if how == "reject":
            raise Reject("not now")
    log("aborted" if is_aborted() else "end", what)
    return what


if (HERE / "mended").exists():

    @app.task
    def later(what: str) -> None:
        log("end", what)
"""


def mendable(at: Place) -> Place:
    """Give a place the task that can be mended."""
    file = at.path / "work.py"
    file.write_text(file.read_text() + MENDABLE)
    return at


def dead(at: Place, *arguments: str, code: int = 0) -> Any:
    """Run ``amqtask dead``; what it printed as JSON."""
    done = at.command("dead", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def letters(at: Place, *queues: str) -> dict[str, Any]:
    """All letters of these queues, by id."""
    told = at.command("dead", "list", *queues, "--flat", "--json").stdout
    return {letter["id"]: letter for letter in map(json.loads, told.splitlines())}


def body(*args: object) -> bytes:
    return json.dumps([args, {}, {"callbacks": None, "errbacks": None}]).encode()


def overfill(at: Place, queue: str) -> None:
    for _ in range(5):  # a quorum queue takes one more than it should
        at.send("deliver", "refused", "raise", queue=queue, ignore_result=True)


def recent(text: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(minutes=2)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_a_worker_gives_up(place: Places, kind: str) -> None:
    at = mendable(place(type=kind, queue={"max_crashes": 2}))
    node = at.node("-c1", "-n", "n1@here", "-Q", at.queue)
    raw = {"lang": "py", "task": "work.deliver"}
    ways: dict[str, tuple[str, str]] = {  # id: the reason and the exception it should have
        "failed": ("failure", "Broken"),
        "rejected": ("rejected", "Reject"),
        "unknown": ("unknown task", "NotRegistered"),
        "pickled": ("refused content", "ContentRefused"),
        "garbled": ("undecodable", "DecodeError"),
        "wrong": ("wrong arguments", "TypeError"),
        "expired": ("expired", "TaskRevokedError"),
        "hung": ("time limit", "TimeLimitExceeded"),
        "crashed": ("crashes", "WorkerLostError"),
    }
    for name, how in (("failed", "raise"), ("rejected", "reject"), ("crashed", "crash")):
        at.send("deliver", name, how, task_id=name, ignore_result=True)
    at.send("deliver", "hung", "hang", task_id="hung", time_limit=0.3, ignore_result=True)
    at.send("later", "unknown", task_id="unknown", ignore_result=True)
    pickled = pickle.dumps([["pickled", "raise"], {}, {}])
    at.put(pickled, headers=raw | {"id": "pickled"}, **PICKLE)
    at.put(b"\xff{", headers=raw | {"id": "garbled"}, **JSON)
    at.put(body(), headers=raw | {"id": "wrong"}, **JSON)
    at.put(body("expired", "raise"), headers=raw | {"id": "expired", "expires": LONG_AGO}, **JSON)
    revoked = at.send("deliver", "revoked", "raise", countdown=1, task_id=str(uuid.uuid4()))
    revoked.revoke()
    eventually(lambda: at.depth(at.dead) == len(ways), 30)
    with pytest.raises(TaskRevokedError):  # somebody wanted that: it is no dead letter
        revoked.get(timeout=20)
    assert node.stop() == 0

    found = letters(at)
    groups = dead(at, "list", at.queue)

    assert {name: (each["reason"], each["exception"]) for name, each in found.items()} == ways
    for name, each in found.items():
        assert (each["source"], each["node"]) == (at.queue, "n1@here"), name
        assert each["task"] == ("work.later" if name == "unknown" else "work.deliver")
        assert recent(each["time"]), name
        assert each["message"] or name == "pickled", name
        # a traceback where code of the task's was running
        assert bool(each["traceback"]) == (name in ("failed", "wrong")), (name, each["traceback"])
    assert {(g["task"], g["error"]): (g["count"], g["sample"]) for g in groups} == {
        (found[name]["task"], exception): (1, name) for name, (_, exception) in ways.items()
    }

    # what was wrong is mended; one is edited, and one cannot be helped
    at.release("mended")
    settings = json.loads((at.path / "settings.json").read_text())
    settings["accept_content"] = ["json", "pickle"]
    (at.path / "settings.json").write_text(json.dumps(settings))
    edited = at.command("dead", "edit", "wrong", at.queue, "--args", '["wrong", "raise"]')
    assert edited.returncode == 0, edited.stderr
    assert dead(at, "retry", at.queue)["done"] == len(ways) - 1
    node = at.node("-c1", "-Q", at.queue)
    good = sorted(set(ways) - {"garbled"})
    at.everything_done(good)
    again: Any = eventually(lambda: letters(at).get("garbled"), 20)
    assert node.stop() == 0
    assert (again["reason"], again["rounds"]) == ("undecodable", 1)
    assert at.count("end") == dict.fromkeys(good, 1)
    assert (at.depth(), at.depth(at.dead)) == (0, 1)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_the_broker_gives_up(place: Places, kind: str) -> None:
    at = mendable(place(type=kind, more=("stale", "full", "refusing", "limited")))
    work, stale, full, refusing, limited = at.queues
    at.release("mended")
    limit: dict[str, object] = {"delivery_limit": 1} if kind == "quorum" else {}
    queues: dict[str, dict[str, object]] = {
        work: {},
        stale: {"message_ttl": "100ms"},
        full: {"max_length": 1, "overflow": "drop-head"},
        refusing: {"max_length": 1, "overflow": "reject-publish"},
        limited: limit,
    }
    topology = {
        "version": 1,
        "delays": False,  # its queues take a while
        "queues": {queue: {"type": kind} | more for queue, more in queues.items()},
    }
    (at.path / "topology.yaml").write_text(json.dumps(topology))
    at.declare()

    def put(queue: str, name: str, **properties: Any) -> None:
        headers = {"lang": "py", "task": "work.deliver", "id": name}
        at.put(body(name, "raise"), queue, headers=headers, **JSON, **properties)

    put(work, "its own time", expiration="50")
    put(stale, "the queue's time")
    for name in ("first", "second", "third"):
        put(full, name)
    with pytest.raises(PublishNacked, match="full"):
        overfill(at, refusing)
    ways = {
        "its own time": ("expired", work),
        "the queue's time": ("expired", stale),
        "first": ("overflow", full),
        "second": ("overflow", full),
    }
    if kind == "quorum":
        put(limited, "tired")
        with at.broker.channel() as channel:
            for _ in range(2):  # as nodes that vanish with it
                method, _, _ = eventually(lambda: _get(channel, limited), 10)
                channel.basic_reject(method.delivery_tag, requeue=True)
        ways["tired"] = ("delivery limit", limited)
    eventually(lambda: sum(at.depth(f"{q}.dead") for q in at.queues) == len(ways), 20)

    found = letters(at)
    groups = dead(at, "list")

    assert {name: (each["reason"], each["source"]) for name, each in found.items()} == ways
    assert all(recent(each["time"]) for each in found.values())
    assert {(g["queue"], g["error"], g["count"]) for g in groups} == {
        (f"{queue}.dead", reason, sum(way == (reason, queue) for way in ways.values()))
        for reason, queue in ways.values()
    }

    # `stale` would let it expire again, and `full` holds one message
    moved = dead(at, "retry", "--queue", work)
    assert (moved["done"], moved["left"]) == (len(ways), 0)
    with at.broker.channel() as channel:
        channel.queue_purge(refusing)
    node = at.node("-c1", "-Q", f"{work},{full},{limited}")
    at.everything_done([*ways, "third"])
    assert node.stop() == 0
    assert at.count("end") == dict.fromkeys([*ways, "third"], 1)
    assert sum(at.depth(f"{queue}.dead") for queue in at.queues) == 0


def _get(channel: Any, queue: str) -> Any:
    found = channel.basic_get(queue)
    return found if found[0] is not None else None


def test_what_is_sent_back_has_a_clean_record(place: Places) -> None:
    at = mendable(place(queue={"max_crashes": 2}))
    node = at.node("-c1", "-Q", at.queue)
    at.send("deliver", "poison", "crash", task_id="poison", ignore_result=True)
    unwanted = str(uuid.uuid4())
    result = at.send("deliver", "unwanted", "raise", task_id=unwanted)
    eventually(lambda: at.depth(at.dead) == 2, 30)
    result.revoke()
    result.abort()

    # as many tries as the first time
    assert dead(at, "retry", at.queue, "--error", "WorkerLostError")["done"] == 1
    eventually(lambda: at.count("start")["poison"] == 4 and at.depth(at.dead) == 2, 30)
    letter = letters(at)["poison"]
    assert (letter["reason"], letter["rounds"]) == ("crashes", 1)
    # somebody who sends a task back has thought better of its revocation, and a crash does not bring it back
    at.release("mended")
    at.release("unwanted")
    assert dead(at, "retry", at.queue)["done"] == 2
    at.everything_done(["poison", "unwanted"])
    assert node.stop() == 0
    assert at.count("start") == {"poison": 5, "unwanted": 3}
    assert at.depth() == at.depth(at.dead) == 0


def test_a_dead_letter_that_no_queue_takes_is_kept(place: Places) -> None:
    at = mendable(place(more=("grave",)))
    work, grave = at.queues
    topology = {
        "version": 1,
        "delays": False,
        "queues": {
            work: {"type": "classic", "dead_letter": {"exchange": "", "routing_key": grave}},
            grave: {
                "type": "classic",
                "dead_letter": False,
                "max_length": 1,
                "overflow": "reject-publish",
            },
        },
    }
    (at.path / "topology.yaml").write_text(json.dumps(topology))
    node = at.node("-c1", "-Q", work)
    kept = (
        "no queue takes a dead letter; its message is kept and the letter sent again until one does"
    )

    one, two = f"{grave}-one", f"{grave}-two"  # others on this broker may have revoked plainer ids
    at.put(b"full", grave)
    eventually(lambda: at.depth(grave) == 1)
    at.send("deliver", "one", "raise", task_id=one, ignore_result=True)
    node.says(kept)
    assert at.send("add", 1, 2).get(timeout=20) == 3  # the node goes on
    with at.broker.channel() as channel:
        channel.queue_purge(grave)
    properties, _ = at.take_one(grave)
    assert properties.headers["id"] == one

    with at.broker.channel() as channel:
        channel.queue_delete(grave)
    at.send("deliver", "two", "raise", task_id=two, ignore_result=True)
    node.says(kept, times=2)
    at.declare()
    properties, _ = at.take_one(grave)
    assert properties.headers["id"] == two
    assert properties.headers["amqtask-dead-exception"] == "Broken"
    assert node.stop() == 0
    assert [line["task_id"] for line in node.records(kept)] == [one, two]
    assert at.count("start") == {"one": 1, "two": 1}
    assert at.depth() == 0
