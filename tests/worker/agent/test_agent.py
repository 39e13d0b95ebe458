"""The agent passes on what it reads in frames that a datagram can hold, and the offset only with the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from amqtask import App
from amqtask.amqp.address import Address
from amqtask.core.verdicts import Kind, Record, key
from amqtask.settings import Settings
from amqtask.worker.agent.agent import IDS, Agent
from amqtask.worker.forking.link import DATAGRAM, AgentRead, FromAgent, Mailbox
from amqtask.worker.forking.prepared import AgentContext
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Board


@dataclass
class Desk:
    """An agent that was not started, and the supervisor's end of its mailbox."""

    agent: Agent
    mailbox: Mailbox[FromAgent]

    def read(self, offset: int, records: list[Record]) -> list[AgentRead]:
        """Have the agent read records; the frames that came of it."""
        self.agent._io_read(offset, records)  # the feed calls it, which needs a broker
        return cast(list[AgentRead], self.mailbox.receive())


@pytest.fixture
def desk() -> Iterator[Desk]:
    board = Board(seats=1, slots=1, standings=8)
    board.offset = 5
    ours, theirs = Mailbox.pair()
    job: Any = Job(
        app=App("shop"),
        node="here",
        addresses=(Address(),),
        queues=(),
        prefetch=1,
        declares=False,
        declarations=(),
        dead_letters={},
        max_crashes={},
        max_returns={},
        consumer_timeouts={},
        settings=Settings(),
        max_tasks=None,
        max_memory=None,
    )
    agent = Agent(job, AgentContext(node="here", board=board, mailbox=theirs))
    yield Desk(agent, ours)
    agent._io.start()  # which ends with its loop closed
    agent._io.stop()
    ours.close()
    theirs.close()
    board.close()


def record(*ids: str, **more: Any) -> Record:
    return Record(kind=Kind.REVOKED, event="e", origin="there", time=1.0, ids=ids, **more)


def test_a_batch_is_one_frame(desk: Desk) -> None:
    records = [record("a"), record("b", headers={"tenant": ["7"]})]

    assert desk.read(9, records) == [AgentRead(9, records)]
    assert desk.read(10, []) == [AgentRead(10, [])]


def test_what_is_long_is_passed_on_by_its_key(desk: Desk) -> None:
    (frame,) = desk.read(9, [record("x" * 500)])

    assert frame.records[0].ids == (key("x" * 500).decode(),)


def test_many_ids_take_many_frames_and_the_last_has_the_offset(desk: Desk) -> None:
    ids = [f"{number:064}" for number in range(2 * IDS + 1)]

    frames = desk.read(9, [record(*ids), record("last")])

    assert [each for frame in frames for part in frame.records for each in part.ids] == [
        *ids,
        "last",
    ]
    # whoever follows an agent that died between two of them reads all of it again
    assert [frame.offset for frame in frames] == [5] * (len(frames) - 1) + [9]
    assert 2 <= len(frames) <= 5
    assert all(sum(70 * len(part.ids) for part in frame.records) < DATAGRAM for frame in frames)
