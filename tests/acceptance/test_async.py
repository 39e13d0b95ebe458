"""Many tasks in flight from one event loop, and nothing left of them afterwards; many loops in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.nodes import Node, Place

PROGRAM = """
import asyncio, gc, os, sys, threading, time
from work import add, app

def descriptors():
    return set(os.listdir("/proc/self/fd"))

async def main():
    assert await (await add.adelay(1, 1)) == 2  # connected
    tasks, threads, files = len(asyncio.all_tasks()), threading.active_count(), descriptors()
    began = time.monotonic()

    # one coroutine for each, all at once
    results = await asyncio.gather(*[add.adelay(n, 1) for n in range(COUNT)])
    assert len(asyncio.all_tasks()) == tasks
    assert await asyncio.gather(*results) == [n + 1 for n in range(COUNT)]

    # a batch makes no task of its own for any of them
    async with app.abatch():
        results = []
        for n in range(SOME):
            results.append(await add.adelay(n, 2))
        assert len(asyncio.all_tasks()) == tasks
    assert await asyncio.gather(*results) == [n + 2 for n in range(SOME)]

    results = await add.adelay_many([(n, 3) for n in range(SOME)])
    assert await asyncio.gather(*[result.aget(timeout=60) for result in results]) == [n + 3 for n in range(SOME)]

    took = time.monotonic() - began
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() == threads
    assert descriptors() == files
    waiting = [entry for entry in app._connections.pending._awaited.values() if entry._waiters]
    assert not waiting, waiting
    await app.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return took

COUNT, SOME = int(sys.argv[1]), 1500
def run(program):
    if sys.argv[2] == "uvloop":
        import uvloop
        return uvloop.run(program)
    return asyncio.run(program)
async def nothing():
    pass
run(nothing())  # what a kind of loop opens once for the process
before = descriptors()
took = run(main())
gc.collect()
assert descriptors() == before
print(f"{took:.2f}")
"""


@pytest.fixture
def at(place: Callable[..., Place]) -> Iterator[Place]:
    at = place(
        publish_timeout=60.0
    )  # ten thousand at once may take a busy machine more than ten seconds
    node: Node = at.node("-c2", "-Q", at.queue)
    yield at
    assert node.stop() == 0
    at.all_settled()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ten_thousand_in_flight_from_one_loop(at: Place, loop: str) -> None:
    count = 10_000 if loop == "asyncio" else 1_000
    assert float(at.script(f"import sys; sys.argv[1:] = ['{count}', '{loop}']\n{PROGRAM}", 120))


def test_loops_beside_and_after_each_other(at: Place) -> None:
    shown = at.script(
        """
import asyncio, threading
from work import add, app

async def main(start):
    results = await asyncio.gather(*[add.adelay(start, n) for n in range(50)])
    assert await asyncio.gather(*results) == [start + n for n in range(50)]

for turn in range(5):
    threads = [threading.Thread(target=asyncio.run, args=(main(100 * number),)) for number in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert len(app._connections._loop_clients) <= 4, len(app._connections._loop_clients)
app.close()
print("fine")
"""
    )
    assert shown.strip() == "fine"


def test_cancelling_some_harms_no_other(at: Place) -> None:
    """Senders and waiters are cancelled at random moments; each of the others gets its result, and nobody is left waiting."""
    shown = at.script(
        """
import asyncio, random
from work import add, app

async def ask(n):
    return await (await add.adelay(n, 1))

async def ask_in_batch(n):
    async with app.abatch():
        result = await add.adelay(n, 2)
    return await result

async def main():
    await ask(0)
    tasks = len(asyncio.all_tasks())
    rng = random.Random(7)
    asking = [asyncio.create_task((ask if n % 2 else ask_in_batch)(n)) for n in range(2000)]
    doomed = rng.sample(range(2000), 1000)
    for n in doomed:
        if not n % 7: await asyncio.sleep(0)
        asking[n].cancel()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    for n, value in enumerate(ended):
        expected = n + (1 if n % 2 else 2)
        assert value == expected or (n in doomed and isinstance(value, asyncio.CancelledError)), (n, value)
    publisher = next(iter(app._connections._loop_clients.values())).publisher
    assert publisher._open == 0 and not publisher._outgoing.backlog and not len(publisher._outgoing.in_flight)
    assert not [entry for entry in app._connections.pending._awaited.values() if entry._waiters]
    assert len(asyncio.all_tasks()) == tasks
    await app.aclose()
    print(sum(isinstance(value, asyncio.CancelledError) for value in ended) > 0)

asyncio.run(main())
"""
    )
    assert shown.strip() == "True"
