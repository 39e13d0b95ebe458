"""Threads of the asyncio pool, which plain functions run in."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from amqtask.worker.pools import loop
from amqtask.worker.pools.loop import LoopSlots

TOO_LARGE = 1 << 46  # bytes of stack: more than there are addresses


def test_a_plain_function_runs_when_a_thread_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "THREAD_AGAIN", 0.01)
    pool = LoopSlots(1)
    ran = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            pool._threads = threads
            before = threading.stack_size(TOO_LARGE)
            try:
                pool._submit(ran.set)
                await asyncio.sleep(0.05)  # it is tried again, in vain
                assert not ran.is_set()
            finally:
                threading.stack_size(before)
            assert await asyncio.to_thread(ran.wait, 5)

    with asyncio.Runner(loop_factory=lambda: pool._loop) as runner:
        runner.run(main())
