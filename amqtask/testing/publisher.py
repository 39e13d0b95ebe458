"""A publisher of a chaos run: ``python -m amqtask.testing.publisher NUMBER``.

It sends its share of the tasks in bursts, writes down each attempt and each confirm, tries again (with the same id) what was
refused, and waits for the results it asked for. One that is killed is started again and goes on behind the last number it had
attempted: what was under way then stays without an answer. Even numbers use threads and pika, odd ones asyncio.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from amqtask.errors import AmqtaskError, ResultTimeout
from amqtask.results.handle import AsyncResult
from amqtask.testing import kinds
from amqtask.testing.history import Reader
from amqtask.testing.kinds import Chosen
from amqtask.testing.plan import Plan
from amqtask.testing.workload import app, folder, plan, size, writer

BURST = 60  # tasks sent together, at most
AGAIN = 0.2  # seconds between two tries of what was refused
RESULTS = 7200.0  # seconds to wait for results; the run ends it earlier


class Send(NamedTuple):
    """One task to send."""

    id: str
    chosen: Chosen
    options: dict[str, Any]

    @property
    def note(self) -> str:
        """What is written down with an attempt: the kind, and in how many seconds it is due."""
        return f"{self.chosen.kind} {kinds.countdown(self.chosen):.3f}"


def sends(plan: Plan, number: int, done: set[str]) -> Iterator[Send]:
    """What this publisher has to send, in order, without what was attempted before."""
    for index in range(number, plan.tasks, plan.publishers):
        task_id = plan.id(index)
        if task_id in done:
            continue
        chosen = kinds.choose(plan.seed, index, plan.kinds, plan.tasks)
        arguments: list[Any] = [chosen.amount]
        if chosen.kind == "large":
            arguments.append("x" * size(chosen.amount))
        yield Send(
            task_id,
            chosen,
            {
                "args": arguments,
                "task_id": task_id,
                "ignore_result": not chosen.asks,
                "countdown": kinds.countdown(chosen) or None,
            },
        )


def bursts(plan: Plan, number: int, todo: Sequence[Send]) -> Iterator[tuple[float, list[Send]]]:
    """The sends in bursts, each with the moment at which it goes out."""
    rng = random.Random(f"bursts {plan.seed} {number}")
    share = len(range(number, plan.tasks, plan.publishers))
    pace = plan.duration / max(1, share)
    place = share - len(todo)
    while todo:
        count = rng.choice((1, 1, 3, rng.randint(1, BURST)))
        yield plan.started + place * pace, list(todo[:count])
        todo = todo[count:]
        place += count


def attempted() -> set[str]:
    """What publishers before this one have tried to send."""
    return {event.id for event in Reader(folder).new() if event.what == "attempted"}


class Results:
    """The handles whose results are waited for, in a thread of their own."""

    def __init__(self) -> None:
        self._handles: list[tuple[Send, AsyncResult[Any]]] = []

    def add(self, send: Send, handle: AsyncResult[Any]) -> None:
        """Wait for this one, once it is acknowledged."""
        if send.chosen.asks:
            writer().write("awaits", send.id)
            self._handles.append((send, handle))

    def wait(self) -> None:
        """Write down each result that comes; return when all are there."""
        deadline = time.monotonic() + RESULTS
        for send, handle in self._handles:
            value, error = None, None
            try:
                value = handle.get(timeout=max(0.0, deadline - time.monotonic()))
            except Exception as raised:  # noqa: BLE001  # what a task raised may be anything
                error = raised
            writer().write("result", send.id, judged(send, value, error))


def judged(send: Send, value: object, error: Exception | None) -> str:
    """What to write down of a result: ``ok``, or what is wrong with it."""
    if isinstance(error, ResultTimeout):
        return "did not come"
    end = kinds.KINDS[send.chosen.kind].end
    if error is not None:
        return "ok" if end != "done" else f"wrong: {type(error).__name__}: {error}"
    return "ok" if end != "dead" and value == send.chosen.amount else f"wrong: {value!r}"


# ---------------------------------------------------------------- threads and pika


def publish(todo: Iterator[tuple[float, list[Send]]], results: Results) -> None:
    """Send the bursts, alone or as batches, until each is acknowledged."""
    for at, burst in todo:
        time.sleep(max(0.0, at - time.monotonic()))
        if len(burst) > 3:
            _batch(burst, results)
        else:
            for send in burst:
                _single(send, results)


def _single(send: Send, results: Results) -> None:
    out = writer()
    while True:
        out.write("attempted", send.id, send.note)
        try:
            handle = app.send_task(task_name(send), **send.options)
        except AmqtaskError as error:
            out.write("refused", send.id, f"{type(error).__name__}: {error}")
            time.sleep(AGAIN)
            continue
        out.write("acknowledged", send.id)
        results.add(send, handle)
        _revoke(send)
        return


def _revoke(send: Send) -> None:
    """Take a task back that is not wanted any more."""
    if send.chosen.kind != "revoked":
        return
    writer().write("revoking", send.id)
    try:
        app.control.revoke(send.id)
    except AmqtaskError as error:
        writer().write("unrevoked", send.id, error)
    else:
        writer().write("revoked", send.id)


def _batch(burst: Sequence[Send], results: Results) -> None:
    out = writer()
    while True:
        for send in burst:
            out.write("attempted", send.id, send.note)
        try:
            with app.batch():
                handles = [app.send_task(task_name(send), **send.options) for send in burst]
        except AmqtaskError as error:
            for send in burst:
                out.write("refused", send.id, f"{type(error).__name__}: {error}")
            time.sleep(AGAIN)
            continue
        for send, handle in zip(burst, handles, strict=True):
            out.write("acknowledged", send.id)
            results.add(send, handle)
        for send in burst:
            _revoke(send)
        return


# ---------------------------------------------------------------- asyncio


async def apublish(todo: Iterator[tuple[float, list[Send]]]) -> None:
    """Send the bursts and wait for their results, on an event loop."""
    waiting: set[asyncio.Task[None]] = set()
    for at, burst in todo:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        for send, handle in await _aburst(burst):
            if send.chosen.asks:
                writer().write("awaits", send.id)
                task = asyncio.create_task(_aresult(send, handle))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            await _arevoke(send)
    await asyncio.gather(*waiting)
    await app.aclose()


async def _aburst(burst: Sequence[Send]) -> list[tuple[Send, AsyncResult[Any]]]:
    out = writer()
    while True:
        for send in burst:
            out.write("attempted", send.id, send.note)
        try:
            async with app.abatch():
                handles = [await app.asend_task(task_name(send), **send.options) for send in burst]
        except AmqtaskError as error:
            for send in burst:
                out.write("refused", send.id, f"{type(error).__name__}: {error}")
            await asyncio.sleep(AGAIN)
            continue
        for send in burst:
            out.write("acknowledged", send.id)
        return list(zip(burst, handles, strict=True))


async def _arevoke(send: Send) -> None:
    if send.chosen.kind != "revoked":
        return
    writer().write("revoking", send.id)
    try:
        await app.control.arevoke(send.id)
    except AmqtaskError as error:
        writer().write("unrevoked", send.id, error)
    else:
        writer().write("revoked", send.id)


async def _aresult(send: Send, handle: AsyncResult[Any]) -> None:
    value, error = None, None
    try:
        value = await handle.aget(timeout=RESULTS)
    except Exception as raised:  # noqa: BLE001  # what a task raised may be anything
        error = raised
    writer().write("result", send.id, judged(send, value, error))


# ----------------------------------------------------------------


def task_name(send: Send) -> str:
    """The full name of a task."""
    return f"amqtask.testing.workload.{send.chosen.kind}"


def main(arguments: Sequence[str]) -> int:
    """Publish one share of the run's tasks; 0 when all are acknowledged and all results are in."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends us
    number = int(arguments[0])
    before = attempted()
    todo = list(sends(plan, number, before))
    waves = bursts(plan, number, todo)
    if number % 2:
        asyncio.run(apublish(waves))
        return 0
    results = Results()
    publish(waves, results)
    results.wait()
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
