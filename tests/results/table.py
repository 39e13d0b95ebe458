"""A table of awaited results without a broker: records arrive by hand. It makes handles as an app does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amqtask.core.codec import ACCEPT, LIMITS
from amqtask.core.result import Record, encode_result, exception_to_wire
from amqtask.results.base import Control, ResultBase
from amqtask.results.group import GroupResult
from amqtask.results.handle import AsyncResult
from amqtask.results.pending import Pending
from amqtask.results.record import read_reply


class Table:
    """Hands out handles, and files what comes for them."""

    def __init__(
        self, control: Control | None = None, name: str = "here/1", sends: bool = True
    ) -> None:
        self.pending = Pending(lambda e: read_reply(e, accept=ACCEPT, limits=LIMITS), name)
        self.control = control
        self._entry = self.pending.sending if sends else self.pending.expect

    def AsyncResult(self, task_id: str, *, parent: ResultBase | None = None) -> AsyncResult[Any]:  # noqa: N802  # as of an app
        return AsyncResult.of(self._entry(task_id), task_id, "t", self.control, parent)

    def group(self, *ids: str, parent: ResultBase | None = None) -> GroupResult:
        return GroupResult("g", [self.AsyncResult(task_id) for task_id in ids], parent)

    def arrives(
        self,
        task_id: str,
        result: object = None,
        status: str = "SUCCESS",
        children: Sequence[object] = (),
    ) -> None:
        record = Record(task_id=task_id, status=status, result=result, children=children)
        self.pending.arrive(task_id, encode_result(record))

    def fails(self, task_id: str, error: Exception, status: str = "FAILURE") -> None:
        self.arrives(task_id, exception_to_wire(error), status)

    def listeners(self, *ids: str) -> int:
        """How many wait for what comes next."""
        return sum(len(self.pending.expect(task_id)._waiters) for task_id in ids)
