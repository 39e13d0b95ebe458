"""Where the broker puts what it drops: the keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqtask.topology.dropped import key_of, origin_of
from amqtask.topology.model import Queue, dead_queue_name


@given(st.text(min_size=1))
def test_a_key_tells_its_queue(name: str) -> None:
    kept, refuses = Queue(name=name), Queue(name=name, type="classic", overflow="reject-publish-dlx")  # fmt: skip

    assert origin_of(key_of(kept)) == (name, False)
    assert origin_of(key_of(refuses)) == (name, True)
    assert len(key_of(refuses)) == len(key_of(kept)) == len(dead_queue_name(name))


def test_other_keys_tell_none() -> None:
    assert [origin_of(key) for key in ("", ".dead", "q", "q.dea", "amqtask.dropped")] == [None] * 5
