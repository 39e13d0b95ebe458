"""Faults of the broker and of the way to it, each with a worker at work: an error in time for callers, and work resumes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from amqtask import App
from amqtask.errors import ConfirmTimeout, ConnectFailed, LoginRefused, PublishBlocked
from amqtask.testing.proxy import Proxy
from tests.acceptance.nodes import Node, Place
from tests.brokers import OwnBroker
from tests.waiting import eventually

Places = Callable[..., Place]

ALARMS = {
    "memory": (
        ("set_vm_memory_high_watermark", "0.0000001"),
        ("set_vm_memory_high_watermark", "0.4"),
    ),
    "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB")),
}


@pytest.fixture(params=ALARMS)
def alarm(own: OwnBroker, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Raises the alarm; called again it clears it."""
    on, off = ALARMS[request.param]
    steps = iter([on, off])

    def step() -> None:
        own.ctl(*next(steps))

    yield step
    own.ctl(*off)


def caller(at: Place, url: str | None = None, **settings: object) -> App:
    return App(
        "caller",
        topology=at.path / "topology.yaml",
        broker_url=url or at.broker.url,
        settings={"task_default_queue": at.queue, "publish_timeout": 2.0, **settings},
    )


def test_an_alarm_blocks_callers_and_no_worker(
    place: Places, own: OwnBroker, alarm: Callable[[], None]
) -> None:
    at = place(on=own, type="quorum")
    node = at.node("-c2", "-Q", at.queue)
    app = caller(at)
    try:
        assert app.send_task("work.add", (1, 2)).get(timeout=20) == 3  # both connections are open
        waiting = [at.send("hold", f"w-{number}", "go") for number in range(2)]
        names = at.send_notes(200)
        eventually(lambda: sum(at.count("start").values()) >= 2)
        alarm()
        began = time.monotonic()
        with pytest.raises(PublishBlocked):
            app.send_task("work.add", (1, 2))
        assert time.monotonic() - began < 3
        at.release("go")
        at.everything_done(names, 10)  # tasks without a result are acked and new ones come
        assert at.depth() == 0
        alarm()
        assert [result.get(timeout=20) for result in waiting] == ["w-0", "w-1"]
    finally:
        app.close()
    assert max(at.count("start").values()) == 1
    assert node.stop() == 0


def test_a_silent_network_is_noticed_and_left(place: Places, own: OwnBroker) -> None:
    with Proxy.before(own.url) as proxy:
        at = place(on=own, type="quorum")
        at.declare()
        url = f"{proxy.url}?heartbeat=2"
        node = at.node("-c1", "-b", url, "-Q", at.queue)
        app = caller(at, url)
        try:
            held = app.send_task("work.hold", ("held", "go"))
            at.saw("start", "held")
            other = at.node("-c1", "-Q", at.queue, "-n", "other")
            proxy.freeze()
            began = time.monotonic()
            with pytest.raises((ConfirmTimeout, ConnectFailed)):
                app.send_task("work.add", (1, 2), ignore_result=True)
            assert time.monotonic() - began < 3
            node.says("no broker connection", 9)
            assert time.monotonic() - began < 7 + 1  # three heartbeats, and a moment
            # the broker has noticed as well, and given to the other node what the silent one held
            eventually(lambda: at.count("start")["held"] == 2, 5)
            assert time.monotonic() - began < 7 + 2
            proxy.thaw()
            at.release("go")
            began = time.monotonic()
            # a reply queue is nobody's own: it takes results while its owner is away, and lets the owner in again
            assert held.get(timeout=10) == "held"
            assert app.send_task("work.add", (3, 4)).get(timeout=10) == 7
            assert time.monotonic() - began < 5
        finally:
            app.close()
        assert node.stop() == other.stop() == 0


def test_a_slow_network_delays_and_breaks_nothing(place: Places, own: OwnBroker) -> None:
    with Proxy.before(own.url) as proxy:
        at = place(on=own, type="quorum")
        node = at.node("-c1", "-b", f"{proxy.url}?heartbeat=2", "-Q", at.queue)
        (child,) = node.children()
        proxy.slow(rate=20_000, latency=0.1)
        before = resident(child)
        names = at.send_notes(150)
        assert at.send("note", "x" * 20_000).get(timeout=20) == "x" * 20_000  # a second each way
        at.everything_done(names)
        assert node.stop() == 0
        assert at.depth() == 0
    assert not node.records("no broker connection")
    assert max(at.count("start").values()) == 1
    assert resident(child, before) - before < 20 << 20


def resident(pid: int, gone: int = 0) -> int:
    """Bytes of memory that a process has in use; ``gone`` when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return gone


@pytest.mark.parametrize("change", ["password", "permission", "connections"])
def test_a_login_that_is_refused_later(place: Places, own: OwnBroker, change: str) -> None:
    user, at = f"user-{uuid.uuid4().hex[:8]}", place(on=own, type="quorum")
    grants = {"configure": ".*", "write": ".*", "read": ".*"}
    account, permission = (
        f"/api/users/{user}",
        f"/api/permissions/{quote(own.vhost, safe='')}/{user}",
    )
    own.api("PUT", account, {"password": "old-secret", "tags": "monitoring"})
    own.api("PUT", permission, grants)
    url = own.url.replace("guest:guest@", f"{user}:old-secret@")
    limit = f"/api/user-limits/{user}/max-connections"
    node = at.node("-c1", "-b", url, "-ldebug", "-Q", at.queue)
    app = caller(at, url)
    try:
        assert app.send_task("work.add", (1, 2)).get(timeout=20) == 3
        if change == "password":
            own.api("PUT", account, {"password": "new-secret", "tags": "monitoring"})
        elif change == "permission":
            own.api("DELETE", permission)
        else:
            own.api("PUT", limit, {"value": 0})
        for connection in eventually(lambda: _connections(own, user), 20, interval=0.2):
            own.api("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
        if change == "connections":
            eventually(lambda: "user connection limit (0) is reached" in node.output, 10)
            with pytest.raises(ConnectFailed, match="limit") as caught:
                app.send_task("work.add", (1, 2), ignore_result=True)
            assert not isinstance(caught.value, LoginRefused)
            own.api("DELETE", limit)
        else:
            first = eventually(lambda: _refused(node), 10)
            assert user in first[0]["reason"]
            with pytest.raises(LoginRefused):
                app.send_task("work.add", (1, 2), ignore_result=True)
            own.api("PUT", account, {"password": "old-secret", "tags": "monitoring"})
            own.api("PUT", permission, grants)
        assert at.send("add", 3, 4).get(timeout=20) == 7
        assert "secret" not in node.output
    finally:
        app.close()
    if change != "connections":
        # both connections of the child were refused at once; from then on they take turns, five seconds apart
        again = [each["timestamp"] for each in _refused(node)]
        again += [each["timestamp"] for each in _connected(node)]
        assert len(_connected(node)) >= 1
        assert _seconds(again[0], again[-1]) > 5 * (len(again) - 2) - 1
    assert node.stop() == 0


def _connections(own: OwnBroker, user: str) -> list[dict[str, Any]]:
    """The connections of a user; none until that of the caller's publisher is listed, which takes a moment."""
    found = [each for each in own.api("GET", "/api/connections") if each.get("user") == user]
    names = [each.get("client_properties", {}).get("connection_name", "") for each in found]
    return found if any("caller" in name and "publisher" in name for name in names) else []


def _refused(node: Node) -> list[dict[str, str]]:
    """Logins of the child that were refused; the node's agent is a process of its own and tries by itself."""
    return [
        each
        for each in node.records("no broker connection")
        if "refused" in each["reason"] and "/0" in each["connection"]
    ]


def _connected(node: Node) -> list[dict[str, str]]:
    """Logins of the child that were accepted after that."""
    lines = node.records("connected to the broker again")
    return [each for each in lines if "/0" in each["connection"]]


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
