"""The feed on a real broker: all that is there before the replay is told, own records until they are confirmed, a stream made anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.verdicts import STREAM, Kind, Record, new_event, publication
from amqtask.settings import Settings
from amqtask.worker.agent import feed as module
from amqtask.worker.agent.feed import VerdictFeed
from tests.brokers import Broker, own_vhost
from tests.waiting import eventually


class Line:
    """A feed with a publisher, and what it told, in order."""

    def __init__(self, broker: Broker, *, offset: int = 0, declares: bool = True) -> None:
        self.told: list[str] = []
        self.offset = offset
        self.records: list[Record] = []
        self.confirmed: list[str] = []
        addresses = (Address.parse(broker.url),)
        self.io = IoThread("test-feed")
        self.publisher = ThreadedPublisher(
            self.io,
            Reach(addresses, 10, 5),
            name="feed test",
            window=100,
            buffer=100,
        )
        self.feed = VerdictFeed(
            self.io,
            cast(Any, SimpleNamespace(addresses=addresses, settings=Settings(), declares=declares)),
            self.publisher,
            name=f"feed-{new_event()[:8]}",
            offset=lambda: self.offset,
            on_read=self._read,
            on_replayed=lambda: self.told.append("replayed"),
            on_cannot=lambda reason: self.told.append(f"cannot: {reason}"),
        )
        self.io.post(self.feed.start)

    def _read(self, offset: int, records: list[Record]) -> None:
        self.offset = offset
        self.records += records
        self.told += [f"read {each.event}" for each in records]

    def publish(self, record: Record) -> None:
        self.io.post(lambda: self.feed.publish(record, lambda: self.confirmed.append(record.event)))

    def close(self) -> None:
        closed = threading.Event()
        self.io.post(lambda: self.feed.close(closed.set))
        self.publisher.close(0.0)
        assert closed.wait(10)
        self.io.stop()


Lines = Callable[..., Line]


@pytest.fixture
def line(broker: Broker) -> Iterator[Lines]:
    """Open feeds on a virtual host of the test's own, in which there is no stream."""
    with own_vhost(broker) as own:
        assert own is not broker, "this test needs the management API"
        lines: list[Line] = []

        def make(**options: Any) -> Line:
            lines.append(Line(own, **options))
            return lines[-1]

        make.broker = own  # type: ignore[attr-defined]  # for what no feed does
        yield make
        for each in lines:
            each.close()


def record(kind: Kind = Kind.REVOKED) -> Record:
    return Record(kind=kind, event=new_event(), origin="there", time=time.time(), ids=("x",))


def test_what_is_there_is_read_before_the_replay_is_told(line: Lines) -> None:
    first = line()
    eventually(lambda: first.told == ["replayed"])
    told = [record() for _ in range(3)]
    for each in (*told, told[0]):  # one that is under way is not sent twice
        first.publish(each)
    eventually(lambda: len(first.records) == 3)
    empty = threading.Event()
    first.io.post(lambda: first.feed.when_empty(empty.set))
    assert empty.wait(5)
    with line.broker.channel() as channel:  # type: ignore[attr-defined]  # see the fixture
        channel.confirm_delivery()
        channel.basic_publish("", STREAM, b"no verdict")

    second = line()
    eventually(lambda: "replayed" in second.told)

    assert second.records == first.records == told
    assert second.told == [*(f"read {each.event}" for each in told), "replayed"]
    assert first.confirmed == [each.event for each in told]


def test_a_stream_that_was_made_anew_is_read_from_its_beginning(
    line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.3)
    one = line()
    eventually(lambda: one.told == ["replayed"])
    known = record()
    with line.broker.channel() as channel:  # type: ignore[attr-defined]  # see the fixture
        channel.confirm_delivery()
        channel.basic_publish("", STREAM, publication(known).envelope.body)

    other = line(offset=5000)  # where it was in the stream before
    eventually(lambda: other.records == [known], 20)
    eventually(lambda: "replayed" in other.told)
    assert other.offset < 5000


def test_without_the_stream_it_says_why_once_and_finds_it_when_it_comes(line: Lines) -> None:
    one = line(declares=False)
    eventually(lambda: one.told)

    line()  # which declares it

    eventually(lambda: "replayed" in one.told, 20)
    # in between it may be there without being ready on this node, which is another reason
    reason, *others, replayed = one.told
    assert reason.startswith("cannot: 404")
    assert "no queue 'amqtask.verdicts'" in reason
    assert all(other.startswith("cannot: 406") for other in others), others
    assert replayed == "replayed"
