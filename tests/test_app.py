"""The app on a real broker: confirmed sends, batches, results, forks, threads, ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amqtask import App, AsyncResult
from amqtask.core.message import Message
from amqtask.core.result import Record, exception_to_wire
from amqtask.errors import (
    AlreadyRegistered,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    EncodeError,
    LoginRefused,
    NoRoute,
    NotRegistered,
    PayloadTooLarge,
    ResultError,
    ResultTimeout,
    TopologyError,
    Unroutable,
)
from amqtask.request import Request, current
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Delays, Topology
from tests import weather
from tests.answering import answering, done, publish_reply, total
from tests.brokers import Broker, OwnBroker
from tests.waiting import eventually

Put = Callable[..., int]


def add(a: int, b: int = 0) -> int:
    return a + b


async def aadd(a: int, b: int = 0) -> int:
    return a + b


@contextmanager
def app_on(broker: Broker, queue: str, **settings: Any) -> Iterator[App]:
    app = App("shop", broker_url=broker.url, task_default_queue=queue, **settings)
    try:
        yield app
    finally:
        app.close()


def messages(broker: Broker, queue: str) -> list[dict[str, Any]]:
    """Take everything out of a queue: the headers of each message, in order."""
    found: list[dict[str, Any]] = []
    with broker.channel() as channel:
        while True:
            method, properties, _ = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None:
                return weather.distinct(found, lambda headers: headers["id"])
            found.append(
                {
                    "priority": properties.priority,
                    "timestamp": properties.timestamp,
                    **(properties.headers or {}),
                }
            )


def declare(broker: Broker, queue: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True)


def reply_queues(broker: Broker) -> set[str]:
    with broker.channel():
        return {q["name"] for q in broker.queues() if q["name"].startswith("amqtask.reply.")}


# ---------------------------------------------------------------- declaring tasks


def test_a_task_is_named_by_module_and_function() -> None:
    app = App("shop")

    task = app.task(add)

    assert task.name == f"{__name__}.add"
    assert app.tasks[task.name] is task
    assert app.registered(task.name) is task


def test_in_main_the_apps_name_stands_for_the_module() -> None:
    def job() -> None: ...

    job.__module__ = "__main__"

    assert App("shop").task(job).name == "shop.job"


def test_two_functions_cannot_share_a_name() -> None:
    app = App("shop")
    app.task(name="x")(add)

    with pytest.raises(AlreadyRegistered, match=r"'x' is taken by add .*give aadd"):
        app.task(name="x")(aadd)


def test_the_same_function_again_replaces_itself() -> None:
    app = App("shop")
    app.task(name="x")(add)

    again = app.task(name="x", priority=3)(add)

    assert app.tasks["x"] is again


def test_the_registry_cannot_be_written_past_the_decorator() -> None:
    with pytest.raises(TypeError):
        App("shop").tasks["x"] = None  # type: ignore[index]  # the mistake under test


@pytest.mark.parametrize(
    "decorate",
    [
        lambda app: app.task(acks_lat=True)(add),
        lambda app: app.task(serializer="jsno")(add),
        lambda app: app.task(compression="zip9")(add),
        lambda app: app.task(app.task(add)),
        lambda app: app.task(3),
        lambda app: app.task("name"),
        lambda app: app.task(add, name="x"),
    ],
)
def test_mistakes_in_declaring_are_answered_in_a_sentence(decorate: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigurationError):
        decorate(App("shop"))


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    app = App("shop")
    app.task(name="shop.send_receipt")(add)

    with pytest.raises(NotRegistered, match=r"did you mean 'shop\.send_receipt'"):
        app.registered("shop.send_reciept")


# ---------------------------------------------------------------- configuration


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'publish_timeout'"):
        App("shop", publish_timeot=1)
    with pytest.raises(ConfigurationError, match="jsn"):
        App("shop", settings={"task_serializer": "jsn"})
    with pytest.raises(ConfigurationError, match=r"must not be above task_time_limit \(1 s\)"):
        App("shop", task_soft_time_limit=2, task_time_limit=1)
    assert (
        App("shop", settings={"publish_timeout": 3.0}, publish_timeout=4.0).settings.publish_timeout
        == 4
    )


def test_where_the_brokers_url_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMQTASK_BROKER_URL", raising=False)
    assert App("shop").broker_url == "amqp://guest:guest@localhost//"
    assert App("shop", settings={"broker_url": "amqp://a"}).broker_url == "amqp://a"
    monkeypatch.setenv("AMQTASK_BROKER_URL", "amqp://b")
    assert App("shop", settings={"broker_url": "amqp://a"}).broker_url == "amqp://b"
    assert App("shop", broker_url="amqp://c").broker_url == "amqp://c"


def test_nothing_shows_the_password() -> None:
    app = App("shop", broker_url="amqp://me:hunter2@host//")

    assert "hunter2" not in repr(app) + str(app.addresses)


def test_a_topology_is_looked_for_from_the_working_directory_then_the_module_upwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "project" / "shop"
    package.mkdir(parents=True)
    (tmp_path / "project" / "routing").mkdir()
    text = "version: 1\nqueues:\n  {}: {{}}\n"
    (tmp_path / "project" / "routing" / "t.yaml").write_text(text.format("above"))
    source = "from amqtask import App\napp = App('shop', topology='routing/t.yaml')\n"
    (package / "tasks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__file__": str(package / "tasks.py"), "__name__": "shop.tasks"}

    exec(
        compile(source, "tasks.py", "exec"), scope
    )  # a module of ours, placed where the test wants it
    assert set(scope["app"].topology.queues) == {"above"}

    (tmp_path / "routing").mkdir()
    (tmp_path / "routing" / "t.yaml").write_text(text.format("here"))
    exec(compile(source, "tasks.py", "exec"), scope)
    assert set(scope["app"].topology.queues) == {"here"}


def test_a_missing_topology_is_reported_when_it_is_needed_not_before(tmp_path: Path) -> None:
    app = App("shop", topology="nowhere/t.yaml")
    with pytest.raises(ConfigurationError, match=r"no topology file 'nowhere/t\.yaml': looked in"):
        _ = app.topology
    with pytest.raises(TopologyError):
        _ = App("shop", topology=tmp_path / "t.yaml").topology


def test_a_topology_can_be_a_value() -> None:
    topology = Topology(delays=Delays(prefix="mine"))

    assert App("shop", topology=topology).topology is topology


def test_the_ladder_is_named_by_the_topology_or_else_by_the_app(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text("version: 1")

    assert App("my shop").ladder == Ladder("my-shop")
    assert App("shop", topology=Topology()).ladder == Ladder("shop")
    assert App("shop", topology=Topology(delays=Delays(prefix="mine"))).ladder == Ladder("mine")
    assert App("shop", topology=tmp_path / "routing.yaml").ladder == Ladder("routing")


def test_an_app_without_a_topology_has_its_default_queue() -> None:
    assert "jobs" in App("shop", task_default_queue="jobs").topology.queues


# ---------------------------------------------------------------- sending


def test_when_delay_returns_the_broker_has_the_task(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        before = int(time.time())
        result = app.task(add).delay(1, b=2)

    (headers,) = messages(broker, queue_name)
    assert (headers["id"], headers["task"]) == (result.id, f"{__name__}.add")
    assert headers["priority"] == 0
    assert before <= headers["timestamp"] <= time.time()


def test_a_result_comes_back(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        task = app.task(add)

        assert task.delay(1, 2).get(timeout=10) == 3
        assert app.send_task("anything", (4, 5)).get(timeout=10) == 9
        assert app.send_task(task.name, [1]).get(timeout=10) == 1


def test_a_result_for_a_dropped_handle_is_found_by_its_id(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        task_id = app.task(add).delay(1, 2).id

        assert app.AsyncResult(task_id).get(timeout=10) == 3


def test_states_and_exceptions_travel(broker: Broker, queue_name: str) -> None:
    def answer(message: Message) -> list[Record]:
        wire = exception_to_wire(LookupError("gone"))
        return [
            Record(task_id=message.id, status="STARTED", result={"pid": 1}),
            Record(task_id=message.id, status="FAILURE", result=wire, traceback="remote lines"),
        ]

    with answering(broker, queue_name, answer), app_on(broker, queue_name) as app:
        result = app.task(add).delay(1)
        with pytest.raises(LookupError, match="gone"):
            result.get(timeout=10)

        assert result.traceback == "remote lines"


def test_an_ignored_result_needs_no_reply_queue(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        before = reply_queues(broker)
        result = app.task(ignore_result=True)(add).delay(1)

        assert result.get() is None
        assert reply_queues(broker) <= before
    (headers,) = messages(broker, queue_name)
    assert headers["ignore_result"] is True


def test_a_result_sent_elsewhere_is_not_waited_for(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        result = app.task(add).apply_async((1,), reply_to="mine")

        with pytest.raises(ResultError, match="'mine'"):
            result.get()


def test_a_task_sent_by_a_task_belongs_to_it(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        token = current.set(Request(id="parent", root_id="root", task="t"))
        try:
            app.task(add).delay(1)
        finally:
            current.reset(token)

    (headers,) = messages(broker, queue_name)
    assert (headers["root_id"], headers["parent_id"]) == ("root", "parent")


def test_options_reach_the_message(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name, task_ignore_result=True) as app:
        app.task(add).apply_async(
            (1,), priority=5, expires=3600, headers={"tenant": "a"}, shadow="s", time_limit=2.5,
            soft_time_limit=1, serializer="msgpack", compression="gzip", task_id="mine",
        )  # fmt: skip

    (headers,) = messages(broker, queue_name)
    assert headers["priority"] == 5
    assert headers["tenant"] == "a"
    assert headers["shadow"] == "s"
    assert headers["id"] == "mine"
    assert headers["compression"] == "application/x-gzip"
    assert headers["expires"].endswith("+00:00")


def test_unroutable_names_exchange_key_and_what_was_expected(
    broker: Broker, queue_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f"version: 1\nqueues:\n  {queue_name}: {{}}\n")
    with app_on(broker, queue_name, topology=str(file)) as app:
        task = app.task(add)
        with pytest.raises(
            Unroutable, match=rf"routing key '{queue_name}'.* expects queue .*topology apply {file}"
        ):
            task.delay(1)
        with pytest.raises(Unroutable, match="declares no queue 'nowhere'"):
            task.apply_async((1,), queue="nowhere")
        with pytest.raises(Unroutable, match="declares no exchange 'no-such-exchange'"):
            task.apply_async((1,), exchange="no-such-exchange", routing_key="k")
        with pytest.raises(Unroutable, match="binds no queue"):
            task.apply_async((1,), exchange="amq.topic", routing_key="k")


def test_a_task_without_a_route_is_refused(broker: Broker, queue_name: str) -> None:
    with app_on(broker, queue_name, topology=Topology()) as app, pytest.raises(NoRoute):
        app.task(add).delay(1)


def test_what_cannot_be_written_or_is_too_large(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name, message_max_bytes=1000) as app:
        task = app.task(add)
        with pytest.raises(EncodeError, match=r"args\[0\] is of type object"):
            task.delay(object())  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(PayloadTooLarge, match="message_max_bytes"):
            task.delay("x" * 2000)  # type: ignore[arg-type]  # the mistake under test

    assert messages(broker, queue_name) == []


def test_no_broker_is_an_error_with_host_and_port_and_without_the_password() -> None:
    app = App("shop", broker_url="amqp://me:hunter2@127.0.0.1:1//", publish_timeout=0.5)
    with app, pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1") as caught:
        app.task(add).delay(1)
    assert "hunter2" not in str(caught.value)


def test_a_refused_login_says_so(broker: Broker) -> None:
    address = App("x", broker_url=broker.url).addresses[0]
    url = f"amqp://nobody:hunter2@{address.endpoint}//"
    with App("shop", broker_url=url, publish_timeout=2.0) as app:
        with pytest.raises(LoginRefused, match="nobody") as caught:
            app.task(add).delay(1)
        with pytest.raises(LoginRefused):
            app.task(add).apply_async((1,), ignore_result=True)
    assert "hunter2" not in str(caught.value)


# ---------------------------------------------------------------- many at once


def test_delay_many_is_confirmed_when_it_returns(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        results = app.task(add).delay_many((n,) for n in range(500))

        with broker.channel() as channel:
            left = channel.queue_declare(queue_name, passive=True).method.message_count
    assert weather.all_of(left, 500)
    assert [headers["id"] for headers in messages(broker, queue_name)] == [r.id for r in results]


def test_a_batch_is_confirmed_when_it_ends(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        task = app.task(add)
        with app.batch():
            outer = task.delay(1, 1)
            with app.batch():
                results = [task.delay(n, n) for n in range(100)]
            assert results[3].get(timeout=10) == 6

        assert [result.get(timeout=10) for result in results] == [2 * n for n in range(100)]
        assert outer.get(timeout=10) == 2


def test_a_batch_larger_than_the_window_waits_in_between(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name, publish_window=2, publish_buffer=3) as app:
        task = app.task(add)
        with app.batch():
            for n in range(300):
                task.delay(n)
        task.delay_many([(n,) for n in range(300)])

    assert len(messages(broker, queue_name)) == 600


def test_a_batch_raises_the_first_error_and_says_how_many(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        task = app.task(add)
        expected = pytest.raises(
            Unroutable, match=r"2 of 3 tasks could not be sent; the first: .*nowhere"
        )
        with expected, app.batch():
            lost = task.apply_async((1,), queue="nowhere")
            task.apply_async((1,), queue="nowhere")
            kept = task.delay(1, 1)

        with pytest.raises(Unroutable, match="nowhere"):
            lost.get()
        assert kept.get(timeout=10) == 2


def test_an_error_in_the_block_goes_first_and_the_rest_is_confirmed(
    broker: Broker, queue_name: str
) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        expected = pytest.raises(ZeroDivisionError)
        with expected as caught, app.batch():
            app.task(add).delay(1)
            app.task(add).apply_async((1,), queue="nowhere")
            raise ZeroDivisionError
        assert "nowhere" in caught.value.__notes__[0]
    assert len(messages(broker, queue_name)) == 1


def test_a_batch_belongs_to_its_thread(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app, ThreadPoolExecutor(1) as pool:
        task = app.task(add)
        with app.batch(), pytest.raises(Unroutable):
            pool.submit(task.apply_async, (1,), queue="nowhere").result()


def test_many_threads_send_and_wait(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        task = app.task(add)

        with ThreadPoolExecutor(50) as pool:
            sums = list(pool.map(lambda n: task.delay(n, n).get(timeout=30), range(500)))

    assert sums == [2 * n for n in range(500)]


# ---------------------------------------------------------------- asyncio


def test_the_async_twins(broker: Broker, queue_name: str) -> None:
    async def main(app: App) -> None:
        task = app.task(aadd)
        expected = pytest.raises(Unroutable, match="1 of 2 tasks")
        async with app:
            assert await (await task.adelay(1, 2)) == 3
            assert await (await task.aapply_async((2, 2))).aget(timeout=10) == 4
            results = await task.adelay_many([(n, 1) for n in range(100)])
            assert await asyncio.gather(*results) == [n + 1 for n in range(100)]
            assert await (await app.asend_task("any", (5, 5))).aget(timeout=10) == 10
            async with app.abatch():
                batched = [await task.adelay(n, n) for n in range(50)]
            assert await asyncio.gather(*batched) == [2 * n for n in range(50)]
            with expected:
                async with app.abatch():
                    lost = await task.aapply_async((1,), queue="nowhere")
                    await task.adelay(1)
            with pytest.raises(Unroutable):
                await lost
            with pytest.raises(Unroutable, match="nowhere"):
                await task.aapply_async((1,), queue="nowhere")

    before = reply_queues(broker)
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        asyncio.run(main(app))
    eventually(lambda: reply_queues(broker) <= before)


def test_results_cross_between_threads_and_loops(broker: Broker, queue_name: str) -> None:
    async def main(app: App) -> None:
        task = app.task(aadd)
        sent_by_thread = await asyncio.to_thread(task.delay, 1, 1)
        sent_by_loop = await task.adelay(2, 2)

        assert await sent_by_thread.aget(timeout=10) == 2
        assert await asyncio.to_thread(sent_by_loop.get, 10) == 4
        await app.aclose()

    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        asyncio.run(main(app))


@pytest.mark.exact("nothing may be on stderr, where asyncio tells of a transport that was reset")
def test_a_loop_can_be_left_while_the_app_goes_on(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        app.send_task("t.add", (1,))  # opens the connections of the process
        client = app._connections._client

        async def scenario() -> None:
            await app.asend_task("t.add", (2,))
            await app.leave_loop()
            assert not app._connections._loop_clients

        asyncio.run(scenario())
        assert app._connections._client is client
        app.send_task("t.add", (3,))


def test_a_loop_that_ends_without_aclose_leaves_no_warning(broker: Broker, queue_name: str) -> None:
    program = f"""
        import asyncio
        from amqtask import App
        app = App("shop", broker_url={broker.url!r}, task_default_queue={queue_name!r},
                  result_queue_expires=4.0)
        @app.task
        def add(a, b): ...
        async def main():
            print(await add.adelay(1, 2))
            print(await (await add.adelay(3, 4)))
        asyncio.run(main())
    """
    with answering(broker, queue_name, total):
        output = run(program, "-W", "error")
    assert output.splitlines()[-1] == "7"


def test_a_result_whose_loop_has_ended_is_not_waited_for(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:  # nobody answers

        async def sent_and_left() -> AsyncResult[Any]:
            return await app.asend_task("t.add", (1,))

        async def asked(result: AsyncResult[Any]) -> None:
            await result.aget()

        waiting = app.send_task("t.add", (2,))
        result = asyncio.run(sent_and_left())
        with pytest.raises(ConnectionLost, match=f"{result.id} was sent in has ended"):
            result.get()
        with pytest.raises(ConnectionLost, match="send with delay"):
            asyncio.run(asked(result))
        with pytest.raises(ResultTimeout):  # what was sent outside of it has a reply queue still
            waiting.get(timeout=0.05)


# ---------------------------------------------------------------- forks and ends


def run(program: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, weather.told(done.stderr)) == (0, "")
    return done.stdout


def test_a_fork_after_the_first_publish_has_its_own_connections(
    broker: Broker, queue_name: str
) -> None:
    program = f"""
        import os, sys
        from amqtask import App
        app = App("shop", broker_url={broker.url!r}, task_default_queue={queue_name!r})
        @app.task
        def add(a, b): ...
        assert add.delay(1, 1).get(timeout=10) == 2
        mine = add.delay(2, 2)
        child = os.fork()
        if child == 0:
            assert add.delay(3, 3).get(timeout=10) == 6
            try:
                mine.get(timeout=10)
            except RuntimeError:
                sys.exit(0)
            sys.exit(7 if not mine.ready() else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mine.get(timeout=10) == 4
        assert add.delay(5, 5).get(timeout=10) == 10
    """
    before = reply_queues(broker)
    with answering(broker, queue_name, total):
        run(program)
    eventually(lambda: reply_queues(broker) <= before)


def test_a_fork_inside_a_batch(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    program = f"""
        import os
        from amqtask import App
        app = App("shop", broker_url={broker.url!r}, task_default_queue={queue_name!r})
        @app.task(ignore_result=True)
        def add(a): ...
        with app.batch():
            for n in range(200): add.delay(n)
            child = os.fork()
            add.delay(0)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    run(program)
    assert len(messages(broker, queue_name)) == 202


def test_no_thread_of_ours_imports_anything(broker: Broker, queue_name: str) -> None:
    """The lock of a module that another thread imports in the moment of a fork is held in the copy for ever."""
    declare(broker, queue_name)
    told = run(f"""
        import sys, threading
        from amqtask import App
        app = App("shop", broker_url={broker.url!r}, task_default_queue={queue_name!r})
        @app.task(ignore_result=True)
        def add(a): ...
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if threading.current_thread() is not threading.main_thread():
                    print(name)
        sys.meta_path.insert(0, Watch())
        add.delay(1)
        with app.batch():
            for n in range(3): add.delay(n)
        app.close()
    """)
    assert told == ""


def test_leaving_the_program_sends_what_is_on_its_way(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    before = reply_queues(broker)
    run(f"""
        from amqtask import App
        app = App("shop", broker_url={broker.url!r}, task_default_queue={queue_name!r})
        @app.task
        def add(a): ...
        app.batch().__enter__()
        for n in range(300): add.delay(n)
    """)
    assert len(messages(broker, queue_name)) == 300
    eventually(lambda: reply_queues(broker) <= before)


def test_close_wakes_who_waits_and_the_app_can_go_on(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app:
        task = app.task(add)
        result = task.delay(1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(result.get, 30)
            eventually(lambda: result._awaited is not None and result._awaited._waiters)
            app.close()
            with pytest.raises(ConnectionLost, match="closed before the result came"):
                waiting.result(timeout=10)
        app.close()
        with answering(broker, queue_name, total):
            assert task.delay(2, 3).get(timeout=10) == 5


@pytest.mark.exact("a cut in the middle of close() leaves the reply queue to expire by itself")
def test_close_leaves_no_thread_and_no_queue(broker: Broker, queue_name: str) -> None:
    before = {thread.name for thread in threading.enumerate()}
    queues = reply_queues(broker)
    with answering(broker, queue_name, total), app_on(broker, queue_name) as app:
        assert app.task(add).delay(1, 2).get(timeout=10) == 3
        eventually(lambda: reply_queues(broker) > queues)
    assert {thread.name for thread in threading.enumerate()} <= before
    eventually(lambda: reply_queues(broker) <= queues)


def test_replies_that_name_nothing_are_dropped(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, done(1)) as seen, app_on(broker, queue_name) as app:
        task = app.task(add)
        assert task.delay(1).get(timeout=10) == 1
        reply_to = seen[0].reply_to
        assert reply_to is not None
        with broker.channel() as channel:
            channel.basic_publish("", reply_to, b"noise")
            publish_reply(channel, reply_to, Record(task_id="nobody", status="SUCCESS"))

        assert task.delay(2).get(timeout=10) == 1


def test_the_reply_queue_comes_back_after_it_was_deleted(broker: Broker, queue_name: str) -> None:
    with answering(broker, queue_name, done(1)) as seen, app_on(broker, queue_name) as app:
        task = app.task(add)
        assert task.delay(1).get(timeout=10) == 1
        reply_to = seen[0].reply_to
        assert reply_to is not None
        with broker.channel() as channel:
            channel.queue_delete(reply_to)
        eventually(lambda: reply_to in reply_queues(broker))

        assert task.delay(2).get(timeout=10) == 1


def test_results_survive_a_restart_of_the_broker(fresh_broker: OwnBroker) -> None:
    queue = "restarted"
    with App("shop", broker_url=fresh_broker.url, task_default_queue=queue) as app:
        task = app.task(add)
        declare(fresh_broker, queue)
        waiting = task.delay(1, 2)

        fresh_broker.stop()
        fresh_broker.start()

        with answering(fresh_broker, queue, total):
            assert waiting.get(timeout=30) == 3
            assert task.delay(4, 5).get(timeout=30) == 9


def test_no_answer_is_a_timeout(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    with app_on(broker, queue_name) as app, pytest.raises(ResultTimeout, match="PENDING"):
        app.task(add).delay(1).get(timeout=0.05)


def test_freezing_reads_everything_and_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("version: 1\nqueues:\n  a: {}\n")
    app = App("shop", topology=file)

    app.freeze()
    file.unlink()

    assert "a" in app.topology.queues
