"""The table of awaited results: nothing lost between the thread that files and the threads that wait."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.message import Envelope, Properties
from amqtask.errors import ConnectionLost
from amqtask.results import pending as module
from amqtask.results.pending import Pending, better
from amqtask.results.record import Known

FINAL = ["SUCCESS", "FAILURE", "REVOKED"]
STATES = ["STARTED", "RETRY", "PROGRESS", *FINAL]


def reply(state: str, value: str = "") -> Envelope:
    return Envelope(f"{state}:{value}".encode(), Properties())


def decode(envelope: Envelope) -> Known:
    state, _, value = envelope.body.decode().partition(":")
    return Known(state, value)


@pytest.fixture
def table() -> Pending:
    return Pending(decode)


def test_a_reply_meets_its_handle(table: Pending) -> None:
    entry = table.expect("a")
    assert entry.latest() is None

    table.arrive("a", reply("SUCCESS", "1"))

    assert entry.latest() == Known("SUCCESS", "1")
    assert entry.wait(0)


def test_a_reply_that_comes_before_its_handle_is_kept(table: Pending) -> None:
    table.arrive("a", reply("STARTED"))
    table.arrive("a", reply("SUCCESS", "1"))

    assert table.expect("a").latest() == Known("SUCCESS", "1")


def test_what_a_lost_queue_would_have_brought_is_not_waited_for(table: Pending) -> None:
    here, there, done = (
        table.sending(name, queue) for name, queue in zip("abc", "qrq", strict=True)
    )
    table.arrive("c", reply("SUCCESS", "1"))

    table.lose("q")

    assert here.wait(0)
    assert isinstance(here.error, ConnectionLost)
    assert not there.settled()
    assert (done.latest(), done.error) == (Known("SUCCESS", "1"), None)


def test_two_handles_of_one_task_share_what_is_known(table: Pending) -> None:
    assert table.expect("a") is table.expect("a")


def test_an_entry_without_a_reply_lives_as_long_as_its_handles(table: Pending) -> None:
    entry = table.expect("a")
    del entry
    gc.collect()
    assert len(table._awaited) == 0

    table.arrive("a", reply("SUCCESS", "late"))

    assert table.expect("a").latest() == Known("SUCCESS", "late")


def test_a_result_outlives_a_handle_dropped_before_it_was_read(table: Pending) -> None:
    entry = table.expect("a")
    table.arrive("a", reply("SUCCESS", "early"))
    del entry
    gc.collect()

    assert table.expect("a").latest() == Known("SUCCESS", "early")


def test_a_task_that_is_sent_again_forgets_that_the_first_try_failed(table: Pending) -> None:
    entry = table.sending("a")
    entry.fail(ConnectionError("no broker"))
    assert entry.settled()

    again = table.sending("a")
    assert again is entry
    assert not again.settled()
    table.arrive("a", reply("SUCCESS", "1"))
    assert again.latest() == Known("SUCCESS", "1")

    table.close(reason := ConnectionError("closed"))
    assert table.sending("b").error is reason


def test_replies_nobody_holds_are_bounded_in_number_and_the_newest_stay(table: Pending) -> None:
    for number in range(module.KEPT_MAX + 10):
        table.arrive(str(number), reply("SUCCESS", str(number)))

    assert table.expect("9").latest() is None
    assert table.expect("10").latest() == Known("SUCCESS", "10")


def test_replies_nobody_holds_are_bounded_in_bytes(table: Pending) -> None:
    large = Envelope(b"SUCCESS:" + b"x" * (module.KEPT_MAX_BYTES // 2), Properties())
    for name in ("a", "b", "c"):
        table.arrive(name, large)

    assert table.expect("a").latest() is None
    assert table.expect("c").latest() is not None


def test_progress_of_a_task_nobody_holds_is_bounded(table: Pending) -> None:
    for number in range(1000):
        table.arrive("a", reply("PROGRESS", str(number)))

    assert table.expect("a").latest() == Known("PROGRESS", "999")


def test_progress_nobody_looks_at_does_not_pile_up(table: Pending) -> None:
    entry = table.expect("a")
    for number in range(1000):
        table.arrive("a", reply("PROGRESS", str(number)))

    assert len(entry._fresh) <= module.FOLD_AT
    assert entry.latest() == Known("PROGRESS", "999")


@given(st.lists(st.sampled_from(STATES), min_size=1))
def test_what_was_final_stays_final(states: list[str]) -> None:
    known: Known | None = None
    for number, state in enumerate(states):
        before = known
        known = better(known, Known(state, number))
        if before is not None and before.final:
            assert known.final
            assert FINAL.index(known.state) <= FINAL.index(before.state)

    assert known is not None
    final = [state for state in states if state in FINAL]
    assert known.state == (min(final, key=FINAL.index) if final else states[-1])


def test_waiting_ends_with_the_reply(table: Pending) -> None:
    entry = table.expect("a")
    table.arrive("a", reply("STARTED"))
    timer = threading.Timer(0.05, table.arrive, ("a", reply("SUCCESS")))
    timer.start()

    assert entry.wait(10)
    timer.join()


def test_waiting_ends_with_its_timeout_and_leaves_nothing_behind(table: Pending) -> None:
    entry = table.expect("a")

    assert not entry.wait(0.02)
    assert entry._waiters == []


def test_a_huge_timeout_is_no_error(table: Pending) -> None:
    entry = table.expect("a")
    timer = threading.Timer(0.05, table.arrive, ("a", reply("SUCCESS")))
    timer.start()

    assert entry.wait(1e12)
    timer.join()


def test_closing_wakes_everybody(table: Pending) -> None:
    entries = [table.expect(str(number)) for number in range(20)]
    reason = RuntimeError("closed")
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(entry.wait, 10) for entry in entries]
        table.close(reason)
        assert all(future.result() for future in waiting)

    assert all(entry.error is reason for entry in entries)
    assert table.expect("new").error is reason


def test_many_threads_wait_and_one_files(table: Pending) -> None:
    tasks = 200
    entries = [table.expect(str(number)) for number in range(tasks)]
    with ThreadPoolExecutor(2 * tasks) as pool:
        waiting = [pool.submit(entry.wait, 30) for entry in entries for _ in (1, 2)]
        for number in range(tasks):
            table.arrive(str(number), reply("STARTED"))
            table.arrive(str(number), reply("SUCCESS", str(number)))

        assert all(future.result() for future in waiting)
    assert [entry.latest() for entry in entries] == [
        Known("SUCCESS", str(number)) for number in range(tasks)
    ]


def test_a_slow_decode_in_one_thread_wakes_the_others() -> None:
    decoding, go_on = threading.Event(), threading.Event()

    def slow(envelope: Envelope) -> Known:
        decoding.set()
        assert go_on.wait(10)
        return decode(envelope)

    table = Pending(slow)
    entry = table.expect("a")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(entry.wait, 10)
        table.arrive("a", reply("SUCCESS"))
        assert decoding.wait(10)
        second = pool.submit(entry.wait, 10)
        go_on.set()

        assert first.result()
        assert second.result()


def test_forgetting(table: Pending) -> None:
    entry = table.expect("a")
    table.arrive("a", reply("SUCCESS"))

    entry.forget()

    assert entry.latest() is None


def test_a_fork_while_the_lock_is_held_leaves_the_child_usable(table: Pending) -> None:
    entry = table.expect("a")
    with table.lock:
        child = os.fork()
        if child == 0:
            table.after_fork(RuntimeError("forked"))
            os._exit(0 if entry.settled() and table.expect("b").error is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
