"""Random canvases on real workers come to what plain function calls come to; also while processes are killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import amqtask
from tests.acceptance.nodes import Node, Place
from tests.canvas import drawing
from tests.canvas.drawing import Builder, Drawing, Drawn

APP = Path(__file__).with_name("canvases.py")
COUNT = 2000  # canvases
THREADS = 4  # that send them
WINDOW = 25  # of each thread that are on their way
WITHIN = 60.0  # seconds for one, on a busy machine

Places = Callable[..., Place]


class Runner:
    """Sends canvases of a seed, and compares what they come to."""

    def __init__(self, place: Place, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        app = place.app

        def task(name: str, args: list[Any], *, immutable: bool = False) -> Any:
            return app.signature(name, args=tuple(args), immutable=immutable)

        self._builder = Builder(task, amqtask, self._rng)
        self._sent: deque[tuple[int, Drawing, Any]] = deque()

    def run(
        self, count: int, *, failing: float = 0.0, between: Callable[[int], None] | None = None
    ) -> None:
        """Run so many canvases; ``between`` is called after each one sent."""
        for number in range(count):
            drawn = drawing.draw(self._rng, failing=failing)
            self._sent.append((number, drawn, self._builder.build(drawn).apply_async()))
            if between is not None:
                between(number)
            if len(self._sent) >= WINDOW:
                self._compare()
        while self._sent:
            self._compare()

    def _compare(self) -> None:
        number, drawn, result = self._sent.popleft()
        what = f"canvas {number} of seed {self._seed}: {drawn}"
        try:
            expected = drawing.evaluate(drawn)
        except Drawn:
            # Which error it is depends on what failed first: the task's own, or that of a chord that names it.
            with pytest.raises(Exception, match=drawing.FAILS) as caught:
                result.get(timeout=WITHIN)
            assert not isinstance(caught.value, amqtask.ResultTimeout), what
        else:
            assert result.get(timeout=WITHIN) == expected, what


@pytest.fixture
def at(place: Places) -> Iterator[Place]:
    made = place(tasks=APP, queue={"max_crashes": 100})
    shutil.copy(Path(drawing.__file__), made.path)
    yield made
    with made.broker.channel() as channel:  # every barrier of theirs is gone
        channel.queue_declare(made.queue, passive=True)


@pytest.fixture
def node(at: Place) -> Node:
    return at.node("-c2", "-Q", at.queue)


@pytest.mark.timeout(400)
def test_values_are_those_of_plain_function_calls(at: Place, node: Node) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        runs = [
            pool.submit(Runner(at, seed).run, COUNT // THREADS) for seed in range(1, THREADS + 1)
        ]
        for run in runs:
            run.result()
    assert node.stop() == 0
    at.all_settled()


@pytest.mark.timeout(300)
def test_a_failure_anywhere_reaches_the_caller(at: Place, node: Node) -> None:
    Runner(at, seed=20).run(200, failing=0.05)
    assert node.stop() == 0
    at.all_settled()


@pytest.mark.timeout(300)
def test_killed_children_change_no_value(at: Place, node: Node) -> None:
    rng = random.Random(3)
    due = time.monotonic()

    def kill(_number: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + rng.uniform(0.3, 1.0)
            children = node.children()
            if children:
                os.kill(rng.choice(children), signal.SIGKILL)

    Runner(at, seed=30).run(120, between=kill)
    node.whole(2)
    assert node.stop() == 0
    at.all_settled()
    assert len(node.records("child crashed")) >= 3
