"""Chords without workers: barriers on a real broker, and children as far as they bring chords together."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pika
import pika.exceptions
import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.declaration import call_of
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.join import Joiner
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher, pika_properties
from amqtask.core.barrier import (
    Broken,
    Complete,
    Ending,
    Unable,
    part_message,
    plan_message,
    queue_name,
)
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import PartSent, Send, Sequel
from amqtask.core.result import SUCCESS
from amqtask.core.workflow import Barrier, Part
from amqtask.errors import Unroutable
from amqtask.topology.barrier import barrier_queue
from tests.brokers import Broker
from tests.waiting import eventually

kinds = pytest.mark.parametrize("kind", ["classic", "quorum"])


def message(queue: str, value: object, task_id: str = "body") -> Publication:
    properties = Properties(
        content_type="application/json", delivery_mode=2, correlation_id=task_id
    )
    return Publication("", queue, Envelope(json.dumps(value).encode(), properties))


class Bodies:
    """Concludes by publishing what has come of the chord to a queue: the list of results, or what went wrong."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.endings: list[Ending] = []
        self.refusals: list[Exception] = []

    def conclude(self, ending: Ending) -> Sequel:
        self.endings.append(ending)
        queue = str(ending.plan.get("queue", self.queue))
        match ending:
            case Complete():
                value: object = list(ending.results)
            case Broken():
                queue, value = self.queue, f"failed {ending.part.index}"
            case Unable():
                queue, value = self.queue, f"unable {type(ending.error).__name__}"
        outer = ending.plan.get("outer")
        parts: tuple[PartSent, ...] = ()
        if isinstance(outer, str):
            part = Part(group=outer, index=0, size=1, task_id="inner", state=SUCCESS, result=value)
            parts = (PartSent(part_message(part), part),)
        exchange = str(ending.plan.get("exchange", ""))
        publication = msgspec.structs.replace(message(queue, value), exchange=exchange)
        if isinstance(ending, Unable):
            publication = message(queue, value)
        return Sequel(sends=(Send(publication, None, "the body"),), parts=parts)

    def refused(self, started: object, error: Exception) -> Sequel:
        self.refusals.append(error)
        return Sequel(results=(message(self.queue, f"refused {started}"),))


class Site:
    """A child as far as chords are concerned: an I/O thread, a publisher and a joiner."""

    def __init__(self, url: str, bodies: Any, *, fast: bool = True, **more: Any) -> None:
        self.io = IoThread("test-io")
        reach = Reach(parse_addresses(url), 10, 4, fast)
        self.publisher = ThreadedPublisher(
            self.io, reach, name="test-publisher", window=1000, buffer=20_000
        )
        self.joiner = Joiner(
            self.io,
            reach,
            name="test-joiner",
            publisher=self.publisher,
            concluder=bodies,
            **{"ghost_within": 1.0, **more},
        )

    def end_part(self, part: Part, done: Callable[[Exception | None], None], again: bool) -> None:
        """What the settlement of a part does: have it confirmed, then look."""

        def confirmed(error: Exception | None) -> None:
            if isinstance(error, Unroutable):
                done(None)
            elif error is not None:
                done(error)
            else:
                self.joiner.look(part.group, part.size, part.state != SUCCESS, done, again)

        self.publisher.submit(part_message(part), confirmed)

    def end_parts(
        self, parts: Sequence[Part], *, again: bool = False, timeout: float = 20
    ) -> list[Exception | None]:
        """End parts, all at once; what they were told when each may be acked."""
        told: list[Exception | None] = []
        for part in parts:
            self.io.post(lambda part=part: self.end_part(part, told.append, again))  # type: ignore[misc]  # mypy has no type for a default
        eventually(lambda: len(told) == len(parts), timeout=timeout)
        return told

    def close(self) -> None:
        closed = threading.Event()
        self.joiner.close(closed.set)
        assert closed.wait(10)
        self.publisher.close(5)
        self.io.stop()


class Stage:
    """The broker's side of a test: barriers, and the queue that bodies come to."""

    def __init__(self, broker: Broker, body_queue: str) -> None:
        self.broker = broker
        self.body_queue = body_queue
        self.groups: list[str] = []
        self.connection = broker.connect()
        self.channel = self.connection.channel()
        self.channel.queue_declare(body_queue, durable=True)

    def barrier(
        self, size: int, kind: str = "classic", expires: float = 600, **plan: object
    ) -> str:
        group = uuid.uuid4().hex
        self.groups.append(group)
        method, arguments = call_of(barrier_queue(queue_name(group), expires, kind))
        getattr(self.channel, method)(**arguments)
        self.put(plan_message(Barrier(group, size, plan)))
        return group

    def filled(self, count: int) -> list[str]:
        """The barriers of as many chords of one part, which is there."""
        groups = [uuid.uuid4().hex for _ in range(count)]
        for group in groups:
            self.groups.append(group)
            method, arguments = call_of(barrier_queue(queue_name(group), 600, "classic"))
            getattr(self.channel, method)(**arguments)
        channel = self.connection.channel()
        channel.tx_select()
        for group in groups:
            for each in (plan_message(Barrier(group, 1, {})), part_message(part(group, 0, 1))):
                properties = pika_properties(each.envelope.properties)
                channel.basic_publish("", each.routing_key, each.envelope.body, properties)
        channel.tx_commit()
        channel.close()
        return groups

    @contextlib.contextmanager
    def full(self) -> Iterator[str]:
        """A queue that takes nothing until it is purged, and one message then."""
        name = f"{self.body_queue}.full"
        limits = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        self.channel.queue_declare(name, durable=True, arguments=limits)
        self.put(message(name, "in the way"))
        try:
            yield name
        finally:
            self.channel.queue_delete(name)

    def put(self, publication: Publication) -> None:
        with self.connection_for_confirms() as channel:
            channel.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.envelope.body,
                pika_properties(publication.envelope.properties),
            )

    @contextlib.contextmanager
    def connection_for_confirms(self) -> Iterator[Any]:
        channel = self.connection.channel()
        channel.confirm_delivery()
        yield channel
        channel.close()

    def bodies(self) -> list[Any]:
        """Take what has come to the body queue."""
        found: list[Any] = []
        while True:
            method, _, body = self.channel.basic_get(self.body_queue, auto_ack=True)
            if method is None:
                return found
            assert body is not None
            found.append(json.loads(body))

    def count(self, group: str) -> int:
        """How many messages wait in a barrier."""
        asked = self.channel.queue_declare(queue_name(group), passive=True)
        return int(asked.method.message_count)

    def there(self, group: str) -> bool:
        """Whether a barrier's queue is there."""
        channel = self.connection.channel()
        try:
            channel.queue_declare(queue_name(group), passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def close(self) -> None:
        for group in self.groups:
            self.channel.queue_delete(queue_name(group))
        self.channel.queue_delete(self.body_queue)
        self.connection.close()


class Holding(Bodies):
    """Concludes nothing until ``go`` is set."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.go = threading.Event()

    def conclude(self, ending: Ending) -> Sequel:
        sequel = super().conclude(ending)
        assert self.go.wait(20)
        return sequel


def part(
    group: str, index: int, size: int | None, value: object = None, state: str = SUCCESS
) -> Part:
    return Part(group=group, index=index, size=size, task_id=f"t{index}", state=state, result=value)


def parts_of(group: str, size: int) -> list[Part]:
    return [part(group, i, size, i * i) for i in range(size)]


def squares(size: int) -> list[int]:
    return [i * i for i in range(size)]
