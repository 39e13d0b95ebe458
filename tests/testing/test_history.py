"""Lines of several processes stay whole; a reader sees each once, and none that is half written."""

from __future__ import annotations

import os
from pathlib import Path

from amqtask.testing.history import Reader, Writer


def test_reads_what_is_new(tmp_path: Path) -> None:
    reader, writer = Reader(tmp_path), Writer(tmp_path / "1.history")
    assert list(reader.new()) == []

    writer.write("started", "a", 2)
    writer.write("raised", "a", "two\nlines and words")
    found = list(reader.new())
    assert [(event.what, event.id, event.note) for event in found] == [
        ("started", "a", "2"),
        ("raised", "a", "two lines and words"),
    ]
    assert {event.pid for event in found} == {os.getpid()}
    assert found[0].time <= found[1].time

    with (tmp_path / "2.history").open("w") as stream:
        stream.write("1.5 7 finished b 0\n2.5 7 star")
    assert [event.id for event in reader.new()] == ["b"]
    with (tmp_path / "2.history").open("a") as stream:
        stream.write("ted c\n")
    assert [(event.what, event.id, event.note) for event in reader.new()] == [("started", "c", "")]
    writer.close()
