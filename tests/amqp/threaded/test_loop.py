"""The I/O thread: work in order, errors that stop nothing, an end that leaves nothing behind. No broker."""

from __future__ import annotations

import inspect
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.errors import SoftTimeLimitExceeded
from tests.waiting import eventually

FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-loop")
    yield thread
    thread.stop()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_for(io: IoThread) -> None:
    """Return when everything posted before has run."""
    done = threading.Event()
    io.post(done.set)
    assert done.wait(10)


def test_the_first_post_starts_the_thread(io: IoThread) -> None:
    names: list[str] = []
    before = io.alive
    io.post(lambda: names.append(threading.current_thread().name))
    wait_for(io)

    assert (before, io.alive) == (False, True)
    assert names == ["test-loop"]


def test_each_threads_posts_run_in_its_order(io: IoThread) -> None:
    seen: list[tuple[int, int]] = []

    def post(number: int) -> None:
        for count in range(1000):
            io.post(lambda count=count: seen.append((number, count)))  # type: ignore[misc]  # bound now, not later

    threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(io)

    for number in range(8):
        assert [count for thread, count in seen if thread == number] == list(range(1000))


def test_what_a_callback_posts_runs_too(io: IoThread) -> None:
    done = threading.Event()
    io.post(lambda: io.post(lambda: io.post(done.set)))

    assert done.wait(10)


def test_inside_tells_the_thread(io: IoThread) -> None:
    seen: list[bool] = []
    io.post(lambda: seen.append(io.inside))
    wait_for(io)

    assert seen == [True]
    assert not io.inside


def test_an_error_in_a_callback_does_not_stop_the_loop(
    io: IoThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("of the caller")

    io.post(fail)
    io.post(lambda: io.call_later(0.0, fail))
    io.post(
        lambda: io.loop.add_callback_threadsafe(fail)
    )  # past our guard: pika's loop itself fails
    eventually(lambda: caplog.text.count("ValueError: of the caller") == 3)
    wait_for(io)
    assert io.alive


def test_a_loop_that_fails_again_and_again_pauses(
    io: IoThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("for ever")

    told: list[float] = []
    enough = threading.Event()

    def again(_error: Exception) -> None:
        told.append(time.monotonic())
        if len(told) < 6:
            io.loop.add_callback_threadsafe(fail)
        else:
            enough.set()

    io.on_failure = again
    io.post(lambda: io.loop.add_callback_threadsafe(fail))
    assert enough.wait(10)
    wait_for(io)

    assert told[-1] - told[0] > 0.01 + 0.02 + 0.04 + 0.08 + 0.16
    assert caplog.text.count("ValueError: for ever") == 6


def test_a_post_that_a_signal_interrupts_does_not_silence_the_next(
    io: IoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(io)

    def interrupted(_callback: object) -> None:
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patch:
        patch.setattr(io.loop, "add_callback_threadsafe", interrupted)
        with pytest.raises(SoftTimeLimitExceeded):
            io.post(lambda: None)
    wait_for(io)


def test_a_post_that_is_interrupted_anywhere_does_not_silence_the_next(io: IoThread) -> None:
    io.start()
    lines = len(inspect.getsource(IoThread.post).splitlines())
    first = IoThread.post.__code__.co_firstlineno
    for line in range(first + 1, first + lines):

        def strike(frame: FrameType, event: str, _arg: object, line: int = line) -> Any:
            if (
                event == "line"
                and frame.f_code is IoThread.post.__code__
                and frame.f_lineno == line
            ):
                raise KeyboardInterrupt
            return strike

        sys.settrace(strike)
        try:
            io.post(lambda: None)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        heard = threading.Event()
        io.post(heard.set)
        assert heard.wait(5), f"deaf after line {line}"


def test_timers_run_unless_cancelled(io: IoThread) -> None:
    seen: list[str] = []
    done = threading.Event()

    def arm() -> None:
        io.cancel(io.call_later(0.01, lambda: seen.append("cancelled")))
        io.call_later(0.02, lambda: seen.append("kept"))
        io.call_later(0.03, done.set)

    io.post(arm)

    assert done.wait(10)
    assert seen == ["kept"]


def test_stop_ends_the_thread_and_may_be_repeated() -> None:
    io = IoThread("test-loop")
    wait_for(io)
    io.stop()
    io.stop()
    io.post(lambda: None)  # nobody runs it, and nobody fails

    assert not io.alive


def test_a_thread_that_never_ran_can_be_stopped() -> None:
    io = IoThread("test-loop")
    io.stop()
    io.start()

    assert not io.alive


def test_fifty_threads_leave_no_descriptor_and_no_thread() -> None:
    before = descriptors(), threading.active_count()
    for _ in range(50):
        io = IoThread("test-loop")
        wait_for(io)
        io.stop()

    assert (descriptors(), threading.active_count()) == before


@FORKS
def test_a_forked_child_has_no_descriptor_of_the_loops_and_the_parent_goes_on() -> None:
    reader, writer = os.pipe()
    before = descriptors()
    loops = [IoThread("test-one"), IoThread("test-two")]
    for io in loops:
        wait_for(io)
    assert descriptors() > before
    child = os.fork()
    if child == 0:
        os.write(writer, f"{descriptors()} {any(io.alive for io in loops)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    found = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    for io in loops:
        wait_for(io)
        io.stop()

    assert found == f"{before} False"


def test_a_loop_that_stops_leaves_no_socket_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        io = IoThread("test-loop")
        publisher = ThreadedPublisher(
            io,
            Reach(parse_addresses(f"amqp://127.0.0.1:{server.getsockname()[1]}"), 10, 10),
            name="test",
            window=1,
            buffer=1,
        )
        publisher.connect()
        broker, _ = server.accept()
        with broker:
            broker.settimeout(10)
            assert broker.recv(4) == b"AMQP"  # it waits for an answer
            io.stop()
            while broker.recv(100):
                pass  # until the end, which comes though nobody has closed the publisher
