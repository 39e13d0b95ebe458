"""A block that was decoded by its kind is decoded as the codec would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp import frames, mould
from amqtask.amqp.mould import Moulds
from amqtask.call import new_id
from amqtask.core import codec
from amqtask.core.message import Message, Properties
from amqtask.errors import DecodeError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
common = st.fixed_dictionaries(
    {"task": texts},
    optional={
        "reply_to": texts,
        "origin": texts,
        "ignore_result": st.booleans(),
        "shadow": texts,
        "headers": st.dictionaries(
            texts, st.none() | st.integers(0, 9) | texts | st.lists(texts), max_size=2
        ),
    },
)


def properties_of(task_id: str, sent: float | None, **fields: object) -> Properties:
    made = Message(id=task_id, **fields)  # type: ignore[arg-type]  # a test's fields
    return codec.encode(made, sent=sent).properties


def outcome(decode: Callable[[bytes], Properties], block: bytes) -> Properties | str:
    try:
        return decode(block)
    except DecodeError as error:
        return str(error)


@given(fields=common, sent=st.none() | st.floats(1, 2e9), later=st.floats(0, 9))
def test_the_messages_of_a_kind_are_decoded_as_by_the_codec(
    fields: dict[str, object], sent: float | None, later: float
) -> None:
    moulds = Moulds()
    for number in range(4):
        at = None if sent is None else sent + number * later
        block = frames.encode_properties(properties_of(new_id(), at, **fields))

        expected = frames.decode_properties(block)
        assert moulds.decode(block) == expected
        head = moulds.head(block)
        assert head in (None, codec.read_header(expected))
        assert head is not None or {"headers", "shadow"} & fields.keys() or number == 0


@given(fields=common, at=st.integers(0, 400), bit=st.integers(0, 7), cut=st.integers(0, 3))
def test_a_damaged_block_is_what_the_codec_takes_it_for(
    fields: dict[str, object], at: int, bit: int, cut: int
) -> None:
    moulds = Moulds()
    block = frames.encode_properties(properties_of(new_id(), 1e9, **fields))
    moulds.decode(block)
    damaged = bytearray(block)
    damaged[at % len(block)] ^= 1 << bit
    wrong = bytes(damaged[: len(damaged) - cut])

    assert outcome(moulds.decode, wrong) == outcome(frames.decode_properties, wrong)
    head = moulds.head(wrong)
    assert head is None or head == codec.read_header(frames.decode_properties(wrong))


def test_the_second_of_a_kind_does_not_go_through_the_codec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moulds = Moulds()
    blocks = [
        frames.encode_properties(properties_of(new_id(), 1e9 + n, task="t", origin="1@here"))
        for n in range(3)
    ]
    moulds.decode(blocks[0])
    expected = [frames.decode_properties(block) for block in blocks]
    monkeypatch.setattr(frames, "decode_properties", None)

    assert [moulds.decode(block) for block in blocks] == expected
    assert [moulds.head(block) for block in blocks] == [codec.read_header(p) for p in expected]


def test_what_is_no_tasks_has_no_head_of_its_kind() -> None:
    moulds = Moulds()
    for _ in range(2):
        task_id = new_id()
        properties = Properties(headers={"id": task_id, "task": 7}, correlation_id=task_id)
        block = frames.encode_properties(properties)

        assert moulds.decode(block) == properties
        assert moulds.head(block) is None


def test_messages_of_a_kind_share_no_table() -> None:
    moulds = Moulds()
    blocks = [
        frames.encode_properties(properties_of(new_id(), 1e9, task="t", stamps={"a": ["b"]}))
        for _ in range(3)
    ]
    first, second, third = (moulds.decode(block).headers for block in blocks)

    assert first is not None
    assert second is not None
    assert second is not third
    assert second["stamps"] is not first["stamps"]


def test_an_id_of_another_length_and_one_that_stands_twice_are_left_to_the_codec() -> None:
    moulds = Moulds()
    for task_id, origin in (("short", None), *2 * [(new_id(), "same")]):
        fields = {} if origin is None else {"origin": task_id}
        block = frames.encode_properties(properties_of(task_id, 1e9, task="t", **fields))

        assert moulds.decode(block) == frames.decode_properties(block)


def test_another_kind_takes_the_place_of_one_that_does_not_come_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moulds = Moulds()

    def block(reply_to: str) -> bytes:
        return frames.encode_properties(properties_of(new_id(), 1e9, task="t", reply_to=reply_to))

    moulds.decode(block("gone"))
    for _ in range(mould.STALE + 1):
        moulds.decode(block("here"))
    last = block("here")
    expected = frames.decode_properties(last)
    monkeypatch.setattr(frames, "decode_properties", None)

    assert moulds.decode(last) == expected


def test_kinds_are_not_remembered_without_end() -> None:
    moulds = Moulds()
    for number in range(mould.MOST + 10):
        block = frames.encode_properties(properties_of(new_id(), 1e9, task=f"t{number}"))

        assert moulds.decode(block).headers == frames.decode_properties(block).headers
    assert len(moulds._moulds) <= mould.MOST
