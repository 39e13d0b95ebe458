"""Verdicts across a cluster: what one node learns of a task id holds on every other, and after every restart."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest

from amqtask.core.verdicts import STREAM, Kind, Record, new_event, publication
from amqtask.errors import TaskRevokedError
from tests.acceptance.nodes import Place
from tests.brokers import Broker
from tests.waiting import eventually

Places = Callable[..., Place]


def tell(broker: Broker, *records: Record) -> None:
    """Put records into the stream, as another node would; some node has declared it."""
    with broker.channel() as channel:
        channel.confirm_delivery()
        for record in records:
            channel.basic_publish("", STREAM, publication(record).envelope.body, mandatory=True)


def revoked(*ids: str) -> Record:
    return Record(kind=Kind.REVOKED, event=new_event(), origin="test", time=time.time(), ids=ids)


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_revoked_task_does_not_run(place: Places, flags: str) -> None:
    at = place()
    at.node(flags, "-Q", at.queue).stop()  # the stream is there now
    before, name = str(uuid.uuid4()), str(uuid.uuid4())
    tell(at.broker, revoked(before))
    early = at.send("note", "early", task_id=before)
    node = at.node(flags, "-Q", at.queue)  # its message is first in the queue, before the replay
    with pytest.raises(TaskRevokedError):
        early.get(timeout=10)

    tell(at.broker, revoked(name))
    # a task sent after the record may be faster than it; this one is seen to be known first
    late = [at.send("note", "late", task_id=name)]

    def refused() -> bool:
        try:
            late[0].get(timeout=10)
        except TaskRevokedError:
            return True
        late[0] = at.send("note", "again", task_id=name)
        return False

    eventually(refused, 10)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.stop() == 0
    assert "early" not in at.count("start")
