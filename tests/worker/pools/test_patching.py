"""What is patched for a pool of greenlets, and what stays native beside it. In processes of their own: it cannot be undone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from amqtask.errors import ConfigurationError
from amqtask.worker.pools import patching
from amqtask.worker.start.options import WorkerOptions

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=patching.GREENLET_POOLS)
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a process tells that is patched as the fork server is."""
    script = textwrap.dedent(SCRIPT).replace("POOL", repr(request.param))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


SCRIPT = """
    import json
    from amqtask import log
    import amqtask.cli.worker, amqtask.worker.start.node
    log.configure("warning", json=True)
    from amqtask.worker.pools import patching
    patching.patch(POOL)
    told = {}

    # ---- who has what
    import asyncio, logging, queue, select, socket, threading, time
    import concurrent.futures.thread as pooled
    from pika.adapters import select_connection
    from pika.adapters.utils import selector_ioloop_adapter
    from amqtask.amqp import waits
    from amqtask.amqp.threaded import loop, seams
    from amqtask.amqp.threaded.loop import IoThread
    from amqtask.errors import ConfigurationError
    from amqtask.worker.slots import limits
    native = loop.threading
    told["strays"] = patching.strays()
    told["app"] = [
        hasattr(select, "epoll"), time.sleep is loop.time.sleep, socket.socket is seams.socket.socket,
        threading.Lock is native.Lock, pooled.threading is native,
    ]
    told["ours"] = [
        hasattr(select_connection.select, "epoll"), loop.time.sleep.__class__.__name__,
        native.Lock().__class__.__module__, seams.socket.socket.__module__, logging._lock.__class__.__module__,
    ]
    told["one copy"] = (
        selector_ioloop_adapter.threading is native is asyncio.base_events.threading
        is asyncio.base_events.concurrent.futures.thread.threading
    )
    told["main"] = limits.threading.main_thread().ident == limits.threading.get_ident()

    # ---- which pool an app that patches for itself may have
    told["checks"] = {}
    for name in ("gevent", "eventlet", "prefork"):
        try:
            patching.check(name)
        except ConfigurationError as error:
            told["checks"][name] = str(error)

    # ---- the I/O thread, while a greenlet has the processor
    io = IoThread("io")
    ticks = []
    def tick():
        ticks.append(1)
        io.call_later(0.01, tick)
    io.post(tick)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # nothing here lets another greenlet go on
        pass
    told["ticks"] = len(ticks)

    # ---- asyncio in a native thread
    async def everything():
        name = await asyncio.to_thread(lambda: native.current_thread().name)
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        process = await asyncio.create_subprocess_exec("true")
        return name, await process.wait()
    thread = native.Thread(target=lambda: told.update(asyncio=asyncio.run(everything())))
    thread.start()
    thread.join(20)

    # ---- greenlets that wait for the I/O thread
    from amqtask.worker.pools.hubs import HUBS
    hub = HUBS[POOL]()
    waits.use(hub.gate)
    order = []
    def wait(name, timeout):
        gate = waits.closed_gate()
        io.post(lambda: io.call_later(0.4, gate.release))
        order.append([name, gate.acquire(timeout=timeout)])
    def other():
        time.sleep(0.02)  # the app's: it lets the others go on
        order.append("another")
    hub.spawn(wait, "for ever", -1)
    hub.spawn(wait, "not for long", 0.1)
    hub.spawn(other)
    done = hub.gate()
    hub.spawn(lambda: (time.sleep(0.8), done.release()))
    told["main greenlet"] = done.acquire(timeout=5)
    told["order"] = order

    # ---- what is made of gates
    flag, rung = waits.Flag(), []
    def ring():
        time.sleep(0.05)
        rung.append("rings")
        io.post(flag.set)
    for _ in range(3):
        hub.spawn(lambda: rung.append(flag.wait(5)))
    hub.spawn(ring)
    flag.wait(5)
    time.sleep(0.05)
    told["rung"] = rung

    # ---- in a thread that is none of the hub's, and in the hub
    kinds = []
    thread = native.Thread(target=lambda: kinds.append(type(waits.closed_gate()).__name__))
    thread.start()
    thread.join()
    hub.call(lambda: kinds.append(type(waits.closed_gate()).__name__))
    time.sleep(0.01)
    told["kinds"] = [*kinds, type(waits.closed_gate()).__name__]
    told["not opened"] = waits.closed_gate().acquire(timeout=0)
    io.stop()
    print(json.dumps(told), flush=True)
"""


def test_the_app_gets_a_patched_library_and_nothing_of_ours_does(told: dict[str, Any]) -> None:
    assert told["strays"] == []
    assert told["app"] == [False] * 5
    assert told["ours"] == [True, "builtin_function_or_method", "_thread", "socket", "_thread"]
    assert told["one copy"]
    assert told["main"]


def test_an_app_that_patches_for_another_pool_is_refused(told: dict[str, Any]) -> None:
    refused = told["checks"]
    assert len(refused) == 2
    assert "prefork" in refused
    assert all("while it is imported" in text for text in refused.values())
    patching.check("prefork")  # this process has not patched
    patching.check("gevent")


def test_the_io_thread_turns_while_a_greenlet_has_the_processor(told: dict[str, Any]) -> None:
    assert told["ticks"] >= 10


def test_asyncio_works_in_a_native_thread_with_its_helpers(told: dict[str, Any]) -> None:
    assert told["asyncio"] == ["asyncio_0", 0]


def test_a_greenlet_waits_for_the_io_thread_and_the_others_go_on(told: dict[str, Any]) -> None:
    assert told["order"] == ["another", ["not for long", False], ["for ever", True]]
    assert told["main greenlet"] is True
    assert told["rung"] == ["rings", True, True, True]
    assert told["not opened"] is False


def test_only_greenlets_of_the_hub_wait_in_it(told: dict[str, Any]) -> None:
    assert told["kinds"] == ["lock", "lock", "GreenGate"]


@pytest.mark.parametrize("pool", patching.GREENLET_POOLS)
def test_a_pool_whose_package_is_missing_is_refused_with_its_extra(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'amqtask\[{pool}\]'"):
        patching.require(pool)


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "asyncio"])
def test_other_pools_need_no_package_and_patch_nothing(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    before = dict(sys.modules)
    patching.require(pool)
    patching.patch(pool)
    assert sys.modules == before
    assert WorkerOptions.parse(app="x").pool == "prefork"
