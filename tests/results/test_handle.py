"""What a handle says, and how it waits."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import threading
import time

import pytest

from amqtask.core.codec import ACCEPT, LIMITS
from amqtask.core.message import Envelope, Properties
from amqtask.core.result import Record, RemoteTraceback, encode_result, exception_to_wire
from amqtask.errors import ContentRefused, ResultTimeout, TaskFailed, TaskRevokedError
from amqtask.results.handle import AsyncResult
from amqtask.results.pending import Pending
from amqtask.results.record import read_reply


class ShopError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Table:
    """A table and a handle in it, and the records that arrive for it."""

    def __init__(self) -> None:
        self.pending = Pending(lambda e: read_reply(e, accept=ACCEPT, limits=LIMITS))
        self.handle: AsyncResult[object] = AsyncResult.of(
            self.pending.sending("id1"), "id1", "shop.add"
        )

    def arrives(self, status: str, result: object = None, traceback: str | None = None) -> None:
        record = Record(task_id="id1", status=status, result=result, traceback=traceback)
        self.pending.arrive("id1", encode_result(record))

    def fails(self, error: Exception) -> None:
        self.arrives("FAILURE", exception_to_wire(error), "Traceback: over there")


@pytest.fixture
def table() -> Table:
    return Table()


def test_before_anything_is_known(table: Table) -> None:
    handle = table.handle

    assert (handle.state, handle.status, handle.result, handle.info) == (
        "PENDING", "PENDING", None, None,
    )  # fmt: skip
    assert (handle.ready(), handle.successful(), handle.failed()) == (False, False, False)
    assert (handle.id, handle.task_id, handle.name, str(handle)) == (
        "id1",
        "id1",
        "shop.add",
        "id1",
    )


def test_success(table: Table) -> None:
    table.arrives("SUCCESS", {"n": 1})

    assert table.handle.get(timeout=1) == {"n": 1}
    assert table.handle.get() == {"n": 1}
    assert (table.handle.ready(), table.handle.successful()) == (True, True)


def test_states_on_the_way_bring_their_information(table: Table) -> None:
    table.arrives("STARTED", {"pid": 7})
    assert (table.handle.state, table.handle.info) == ("STARTED", {"pid": 7})

    table.arrives("PROGRESS", {"percent": 50})
    assert (table.handle.state, table.handle.info) == ("PROGRESS", {"percent": 50})
    assert not table.handle.ready()


def test_a_failure_is_raised_as_its_own_class_with_the_remote_traceback(table: Table) -> None:
    table.fails(ShopError(7, "sold out"))

    for _ in (1, 2):
        with pytest.raises(ShopError) as caught:
            table.handle.get(timeout=1)
        assert caught.value.code == 7
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "over there" in str(caught.value.__cause__)
    assert table.handle.traceback == "Traceback: over there"
    assert (table.handle.failed(), table.handle.ready(), table.handle.successful()) == (
        True, True, False,
    )  # fmt: skip


def test_a_failure_can_be_returned_instead(table: Table) -> None:
    table.fails(ShopError(7, "sold out"))

    assert isinstance(table.handle.get(timeout=1, propagate=False), ShopError)
    assert isinstance(table.handle.result, ShopError)


def test_an_exception_unknown_here(table: Table) -> None:
    table.arrives(
        "FAILURE", {"exc_type": "Odd", "exc_message": ["x"], "exc_module": "no.such.module"}
    )

    with pytest.raises(TaskFailed, match=r"no\.such\.module\.Odd: x"):
        table.handle.get(timeout=1)


def test_a_revoked_task(table: Table) -> None:
    table.arrives("REVOKED", exception_to_wire(TaskRevokedError("expired")))

    with pytest.raises(TaskRevokedError, match="expired"):
        table.handle.get(timeout=1)
    assert (table.handle.failed(), table.handle.ready()) == (False, True)


def test_a_retry_on_the_way_is_not_raised(table: Table) -> None:
    table.arrives("RETRY", exception_to_wire(ShopError(1, "busy")))
    assert table.handle.state == "RETRY"
    assert isinstance(table.handle.info, ShopError)

    table.arrives("SUCCESS", 1)
    assert table.handle.get(timeout=1) == 1


def test_a_refused_content_type_is_a_failure(table: Table) -> None:
    table.pending.arrive(
        "id1", Envelope(b"\x80\x04.", Properties(content_type="application/x-python-serialize"))
    )

    with pytest.raises(ContentRefused):
        table.handle.get(timeout=1)


def test_the_timeout_names_task_id_and_last_state(table: Table) -> None:
    table.arrives("STARTED")

    with pytest.raises(ResultTimeout, match=r"shop\.add\[id1\] within 0\.02 s.*STARTED") as caught:
        table.handle.get(timeout=0.02)
    assert isinstance(caught.value, TimeoutError)


def test_a_timeout_of_zero_only_looks(table: Table) -> None:
    with pytest.raises(ResultTimeout):
        table.handle.get(timeout=0)
    table.arrives("SUCCESS", 1)
    assert table.handle.get(timeout=0) == 1


def test_an_ignored_result_is_none_at_once() -> None:
    handle: AsyncResult[int] = AsyncResult.of(None, "id1")

    assert handle.get() is None
    assert asyncio.run(handle.aget()) is None
    assert (handle.state, handle.ignored, handle.ready()) == ("PENDING", True, False)
    handle.forget()


def test_a_publish_that_failed_is_what_get_raises(table: Table) -> None:
    table.pending.expect("id1").fail(ValueError("not sent"))

    with pytest.raises(ValueError, match="not sent"):
        table.handle.get()


def test_forget(table: Table) -> None:
    table.arrives("SUCCESS", 1)
    assert table.handle.ready()

    table.handle.forget()

    assert table.handle.state == "PENDING"


def test_handles_are_equal_by_id(table: Table) -> None:
    again = copy.copy(table.handle)

    assert again == table.handle == "id1"
    assert len({again, table.handle}) == 1
    assert again != AsyncResult.of(None, "other")
    assert table.handle != 3


def test_get_where_replies_arrive_is_refused(table: Table) -> None:
    table.pending.feeders.add(threading.get_ident())

    with pytest.raises(RuntimeError, match="thread of your own"):
        table.handle.get(timeout=1)


def test_get_in_a_running_loop_is_refused_even_when_the_result_is_here(table: Table) -> None:
    table.arrives("SUCCESS", 1)

    async def attempt() -> None:
        with pytest.raises(RuntimeError, match=r"await result\.aget\(\)"):
            table.handle.get(timeout=1)
        assert await table.handle == 1

    asyncio.run(attempt())


def test_get_in_a_fork_is_refused(table: Table) -> None:
    child = os.fork()
    if child == 0:
        try:
            table.handle.get(timeout=1)
        except RuntimeError as error:
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_ends_get_at_once(table: Table) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        table.handle.get(timeout=30)

    assert time.monotonic() - began < 5
    timer.join()
    assert table.pending.expect("id1")._waiters == []


def test_aget_waits_for_what_another_thread_files(table: Table) -> None:
    async def wait() -> object:
        timer = threading.Timer(0.05, table.arrives, ("SUCCESS", 5))
        timer.start()
        table.arrives("STARTED")
        value = await table.handle.aget(timeout=10)
        timer.join()
        return value

    assert asyncio.run(wait()) == 5


def test_aget_timeout_and_cancel_leave_nothing_behind(table: Table) -> None:
    async def attempt() -> None:
        with pytest.raises(ResultTimeout, match="PENDING"):
            await table.handle.aget(timeout=0.02)
        waiting = asyncio.ensure_future(table.handle.aget())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(attempt())
    assert table.pending.expect("id1")._waiters == []


def test_a_reply_after_the_loop_closed_disturbs_nobody(table: Table) -> None:
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(table.handle.aget())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))
    waiter = list(table.pending.expect("id1")._waiters)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)
    loop.close()

    assert len(waiter) == 1
    waiter[0]()
