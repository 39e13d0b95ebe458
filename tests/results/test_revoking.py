"""Which ids a revoke of a handle reaches."""

from __future__ import annotations

import asyncio

from tests.results.table import Table


class Told:
    """A control that notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def revoke(self, task_id: object, *, terminate: bool = False, signal: object = "") -> None:
        self.calls.append((task_id, terminate, signal))

    async def arevoke(
        self, task_id: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((task_id, terminate, signal))

    def revoke_by_stamped_headers(
        self, headers: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((headers, terminate, signal))

    async def arevoke_by_stamped_headers(
        self, headers: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((headers, terminate, signal))

    def abort(self, task_id: str) -> None:
        self.calls.append((task_id,))

    async def aabort(self, task_id: str) -> None:
        self.calls.append((task_id,))


def test_revoking_a_group_tells_all_its_ids_at_once() -> None:
    told = Told()
    table = Table(told)
    group = table.group("a", "b", parent=table.AsyncResult("p"))

    group.revoke()
    asyncio.run(group.arevoke(terminate=True, signal="SIGKILL"))
    group.revoke_by_stamped_headers({"run": "7"})
    asyncio.run(group.arevoke_by_stamped_headers({"run": "7"}, terminate=True))

    assert told.calls == [
        (["a", "b"], False, "SIGTERM"),
        (["a", "b"], True, "SIGKILL"),
        ({"run": "7"}, False, "SIGTERM"),
        ({"run": "7"}, True, "SIGTERM"),
    ]


def test_revoking_a_tree_reaches_what_came_before_and_what_was_started() -> None:
    told = Told()
    table = Table(told)
    header = table.group("b", "c", parent=table.AsyncResult("a"))
    body = table.AsyncResult("d", parent=header)
    table.arrives("d", 1, children=[[["e", None], None]])

    body.revoke(tree=True)
    asyncio.run(body.arevoke(tree=True, terminate=True))
    body.revoke()

    assert told.calls == [
        (["a", "b", "c", "d", "e"], False, "SIGTERM"),
        (["a", "b", "c", "d", "e"], True, "SIGTERM"),
        ("d", False, "SIGTERM"),
    ]
