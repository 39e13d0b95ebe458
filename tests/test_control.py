"""What ``app.control`` says to the workers, as records."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from amqtask import App, AsyncResult
from amqtask.control import Control, header_values, signal_name
from amqtask.core.message import Publication
from amqtask.core.verdicts import STREAM, Kind, Record, decode
from amqtask.errors import TaskRevokedError
from amqtask.results.eager import EagerResult


class Notes:
    """Keeps what is told instead of sending it."""

    origin = "here"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.targets: set[tuple[str, str]] = set()

    def tell(self, publications: Sequence[Publication]) -> None:
        for each in publications:
            self.targets.add((each.exchange, each.routing_key))
            self.records.append(decode(each.envelope.body))

    async def atell(self, publications: Sequence[Publication]) -> None:
        self.tell(publications)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def control(notes: Notes) -> Control:
    return Control(notes)


def test_revoke(control: Control, notes: Notes) -> None:
    control.revoke("a")
    control.revoke(["b", "c"], terminate=True, signal="SIGKILL")

    one, two = notes.records
    assert (one.kind, one.ids, one.terminate, one.signal) == (Kind.REVOKED, ("a",), False, "TERM")
    assert (two.ids, two.terminate, two.signal) == (("b", "c"), True, "KILL")
    assert one.origin == "here"
    assert one.time > 0
    assert one.event != two.event
    assert notes.targets == {("", STREAM)}


def test_terminate_and_abort(control: Control, notes: Notes) -> None:
    control.terminate("a")
    control.abort(("b", "c"))

    assert [(r.kind, r.ids, r.terminate) for r in notes.records] == [
        (Kind.REVOKED, ("a",), True),
        (Kind.ABORTED, ("b", "c"), False),
    ]


def test_revoke_by_headers(control: Control, notes: Notes) -> None:
    control.revoke_by_headers({"customer": 42, "order": ["a", 7]}, terminate=True)
    control.revoke_by_stamped_headers({"customer": "42"})

    assert [(r.headers, r.ids, r.terminate) for r in notes.records] == [
        ({"customer": ["42"], "order": ["a", "7"]}, (), True),
        ({"customer": ["42"]}, (), False),
    ]


def test_the_twins_say_the_same(control: Control, notes: Notes) -> None:
    async def tell() -> None:
        await control.arevoke("a", terminate=True)
        await control.aterminate("a")
        await control.aabort("b")
        await control.arevoke_by_headers({"x": "y"})

    asyncio.run(tell())
    assert [(r.kind, r.ids, r.headers, r.terminate) for r in notes.records] == [
        (Kind.REVOKED, ("a",), {}, True),
        (Kind.REVOKED, ("a",), {}, True),
        (Kind.ABORTED, ("b",), {}, False),
        (Kind.REVOKED, (), {"x": ["y"]}, False),
    ]


def test_many_ids_are_told_in_several_records(control: Control, notes: Notes) -> None:
    ids = [f"id-{number}" for number in range(2500)]
    control.revoke(iter(ids))

    assert [len(record.ids) for record in notes.records] == [1000, 1000, 500]
    assert [each for record in notes.records for each in record.ids] == ids


@pytest.mark.parametrize("ids", ["", [], ["a", ""]])
def test_no_id_is_a_mistake(control: Control, notes: Notes, ids: Any) -> None:
    with pytest.raises(ValueError, match="id is missing"):
        control.revoke(ids)
    assert not notes.records


@pytest.mark.parametrize(
    "ids", [7, None, [b"a"], [AsyncResult.of(None, "a")], AsyncResult.of(None, "a")]
)
def test_what_is_no_id_is_a_mistake(control: Control, notes: Notes, ids: Any) -> None:
    with pytest.raises(TypeError, match=r"result\.id"):
        control.revoke(ids)
    assert not notes.records


@pytest.mark.parametrize(
    ("given", "name"),
    [("SIGTERM", "TERM"), ("term", "TERM"), ("USR1", "USR1"), (9, "KILL"), (signal.SIGINT, "INT")],
)
def test_signals(given: Any, name: str) -> None:
    assert signal_name(given) == name


@pytest.mark.parametrize("given", ["TREM", "", 0, 4711])
def test_unknown_signals(given: Any) -> None:
    with pytest.raises(ValueError, match="no signal"):
        signal_name(given)


@pytest.mark.parametrize("given", [None, 1.5, True, b"TERM"])
def test_what_is_no_signal(control: Control, notes: Notes, given: Any) -> None:
    with pytest.raises(TypeError, match="a name like 'SIGTERM' or a number"):
        control.revoke("a", terminate=True, signal=given)
    assert not notes.records


@pytest.mark.parametrize("headers", [{}, {"a": []}])
def test_no_header_is_a_mistake(headers: Any) -> None:
    with pytest.raises(ValueError, match="nothing was revoked"):
        header_values(headers)


@pytest.mark.parametrize(
    "headers", ["a", {1: "a"}, {"a": None}, {"a": [None]}, {"a": [b"x"]}, {"a": b"x"}]
)
def test_headers_that_cannot_be_compared(headers: Any) -> None:
    with pytest.raises(TypeError):
        header_values(headers)


def test_a_handle_speaks_of_its_task(control: Control, notes: Notes) -> None:
    handle: AsyncResult[int] = AsyncResult.of(None, "id-1", "shop.add", control)
    handle.revoke()
    handle.revoke(terminate=True, signal="SIGKILL")
    handle.abort()

    async def tell() -> None:
        await handle.arevoke(terminate=True)
        await handle.aabort()

    asyncio.run(tell())
    assert {record.ids for record in notes.records} == {("id-1",)}
    assert [(r.kind, r.terminate, r.signal) for r in notes.records] == [
        (Kind.REVOKED, False, "TERM"),
        (Kind.REVOKED, True, "KILL"),
        (Kind.ABORTED, False, "TERM"),
        (Kind.REVOKED, True, "TERM"),
        (Kind.ABORTED, False, "TERM"),
    ]


def test_a_handle_of_no_app() -> None:
    handle: AsyncResult[int] = AsyncResult.of(None, "id-1")
    with pytest.raises(RuntimeError, match=r"app\.control\.revoke"):
        handle.revoke()


def test_a_task_that_ran_in_place_counts_as_revoked_from_then_on() -> None:
    results: list[EagerResult[int]] = [EagerResult(each, 7, "SUCCESS", name="t") for each in "ab"]
    for result in results:
        result.abort()
        asyncio.run(result.aabort())
        assert result.get() == 7
    results[0].revoke(terminate=True)
    asyncio.run(results[1].arevoke())
    for result in results:
        with pytest.raises(TaskRevokedError, match="revoked"):
            result.get()
        assert isinstance(result.get(propagate=False), TaskRevokedError)
        assert (result.state, result.failed(), result.successful()) == ("REVOKED", False, False)


def test_handles_of_an_app_are_its_controls() -> None:
    app = App("told")
    handle = app.AsyncResult("x")
    assert handle._control is app.control  # nothing can be sent without a broker
