"""Frames: whole however they are cut on the way, and an end that is seen."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from amqtask.worker.forking.link import (
    ChildReady,
    ChildRetiring,
    Exited,
    FromChild,
    FromServer,
    Link,
    NotSpawned,
    Reader,
    ReapChild,
    Retire,
    ServerCannot,
    ServerIsReady,
    SpawnChild,
    Spawned,
    ToServer,
    encode,
)

NUMBERS = st.integers(0, 2**31)
FRAMES = st.one_of(
    st.builds(Spawned, NUMBERS, NUMBERS),
    st.builds(NotSpawned, NUMBERS, st.text()),
    st.builds(Exited, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.builds(ServerCannot, st.text(), NUMBERS, st.none() | st.text()),
    st.builds(
        ServerIsReady,
        st.dictionaries(st.text(), st.text() | NUMBERS | st.lists(st.text())),
        st.lists(st.text()),
    ),
)


@given(frames=st.lists(FRAMES, max_size=8), data=st.data())
def test_frames_arrive_whole_however_they_are_cut(
    frames: list[FromServer], data: st.DataObject
) -> None:
    stream = b"".join(encode(frame) for frame in frames)
    reader = Reader[FromServer](FromServer)
    arrived: list[FromServer] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        arrived += reader.feed(stream[:size])
        stream = stream[size:]

    assert arrived == frames


def test_frame_of_a_child_fits_one_atomic_write() -> None:
    assert len(encode(ChildRetiring(2**31, 2**31, 2**31))) < 512
    reader = Reader[FromChild](FromChild)
    assert reader.feed(encode(ChildReady(1, 2, 3)) + encode(ChildRetiring(1, 2, 3))) == [
        ChildReady(1, 2, 3),
        ChildRetiring(1, 2, 3),
    ]


def test_link_reads_what_was_sent_before_its_end() -> None:
    ours, theirs = socket.socketpair()
    link = Link[ToServer](ours, ToServer)
    other = Link[FromServer](theirs, FromServer)
    assert link.receive() == []
    for frame in (SpawnChild(1), ReapChild(7), Retire()):
        assert other.send(frame)
    other.close()

    assert link.receive() == [SpawnChild(1), ReapChild(7), Retire()]
    assert link.closed
    assert link.receive() == []
    assert not link.send(Spawned(1, 7))
    link.close()
