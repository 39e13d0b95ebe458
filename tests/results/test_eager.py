"""The handle of a task that ran in place."""

from __future__ import annotations

import asyncio

from amqtask.results.eager import EagerResult


def test_an_eager_result_is_ready() -> None:
    result: EagerResult[int] = EagerResult("a", 3, "SUCCESS", name="t")

    assert (result.get(), asyncio.run(result.aget()), result.result, result.info) == (3, 3, 3, 3)
    assert (result.ready(), result.successful(), result.status, result.task_id) == (
        True, True, "SUCCESS", "a",
    )  # fmt: skip
    result.forget()
    assert repr(result) == "<EagerResult: a>"
