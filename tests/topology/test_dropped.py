"""Where the broker puts what it drops: keys, and the queues of which nobody is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqtask.topology.dropped import key_of, origin_of, untold
from amqtask.topology.model import Queue, dead_queue_name
from amqtask.topology.parse import parse


@given(st.text(min_size=1))
def test_a_key_tells_its_queue(name: str) -> None:
    kept, refuses = Queue(name=name), Queue(name=name, type="classic", overflow="reject-publish-dlx")  # fmt: skip

    assert origin_of(key_of(kept)) == (name, False)
    assert origin_of(key_of(refuses)) == (name, True)
    assert len(key_of(refuses)) == len(key_of(kept)) == len(dead_queue_name(name))


def test_other_keys_tell_none() -> None:
    assert [origin_of(key) for key in ("", ".dead", "q", "q.dea", "amqtask.dropped")] == [None] * 5


def test_queues_of_which_nobody_is_told() -> None:
    shape = parse(
        """version: 1
exchanges: {failed: {type: fanout}}
queues:
  told: {}
  bounded: {dead_letter: {ttl: 1h}}
  elsewhere: {dead_letter: {exchange: failed}}
  lost: {dead_letter: false}
  rest: {dead_letter: false, bindings: [{exchange: failed}]}
  told.dead: {}
  log: {type: stream}
""",
        "t.yaml",
    )

    assert untold(shape) == ("elsewhere", "lost", "rest")
