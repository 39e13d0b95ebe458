"""What is waited for when several results are waited for together, and what has come of them so far."""

from __future__ import annotations

from typing import Any

from amqtask.errors import ResultTimeout
from amqtask.results.base import Leaf, ResultBase, Several
from amqtask.results.pending import Awaited
from amqtask.results.waiting import Doubts, Interval, WaitOptions, doubt, listening


class Gathering:
    """The members of a set and what has come of them. Pure but for reading the table; one thread.

    Attributes:
        leaves: the tasks that are waited for.
        entries: their entries, and those of what came before them, which is only to raise.
        listener: who is called meanwhile.
    """

    def __init__(
        self,
        results: Several,
        propagate: bool,
        timeout: float | None,
        options: WaitOptions,
        called: str,
    ) -> None:
        self._called = results.called
        self._propagate = propagate
        self._members = results.results
        self.leaves: list[Leaf] = []
        self._owners: list[int] = []
        self._left: list[int] = []
        for number, member in enumerate(results.results):
            before = len(self.leaves)
            self.leaves.extend(member.leaves())
            count = len(self.leaves) - before
            self._owners += [number] * count
            self._left.append(count)
        self._missing = len(self.leaves)
        self.entries: list[Awaited | None] = [leaf.entry for leaf in self.leaves]
        self._before: list[Leaf] = []
        if propagate:
            self._before = results.links_before()
            self.entries += [leaf.entry for leaf in self._before]
        doubts: Interval | None = None
        if timeout is None and options.get("on_interval") is None:
            unexpected = [
                leaf
                for leaf in self.leaves
                if leaf.entry is not None and not leaf.entry.expected and not leaf.ready()
            ]
            if unexpected:
                doubts = Doubts(f"task {unexpected[0].called}")
        self.listener = listening(options, called, self._known, doubts)

    def _known(self, place: int) -> dict[str, Any] | None:
        """What is to be told when the entry in this place has changed: nothing of what came before."""
        return self.leaves[place].meta if place < len(self.leaves) else None

    @property
    def empty(self) -> list[ResultBase]:
        """Members without a task, which have ended."""
        return [member for member, left in zip(self._members, self._left, strict=True) if not left]

    @property
    def done(self) -> bool:
        """Whether all members have ended."""
        return not self._missing

    def arrived(self, place: int) -> tuple[ResultBase, ...]:
        """Take note that an entry has settled; the member that has ended with it, if one has.

        Raises:
            Exception: why a task failed, with ``propagate``.
        """
        if place >= len(self.leaves):
            failure = self._before[place - len(self.leaves)].failure
            if failure is not None:
                raise failure.with_traceback(None)
            return ()
        self._missing -= 1
        if self._propagate:
            self.leaves[place].outcome()
        owner = self._owners[place]
        self._left[owner] -= 1
        return () if self._left[owner] else (self._members[owner],)

    def timed_out(self, timeout: float | None) -> ResultTimeout:
        """What is raised when the time has passed: how many are missing, and where the first of them is."""
        late = next((leaf for leaf in self.leaves if not leaf.ready()), None)
        known = (
            "" if late is None else f"; the last known state of task {late.called} is {late.state}"
        )
        if late is not None and late.entry is not None and not late.entry.expected:
            known += f"; {doubt('it')}"
        return ResultTimeout(
            f"{self._missing} of the {len(self.leaves)} results of {self._called} are missing after {timeout:g} s{known}."
        )
