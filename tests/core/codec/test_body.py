"""Bodies that are as nearly all are, read the short way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import codec
from amqtask.core.codec import Limits, encode, read_body, read_header
from amqtask.core.message import Message
from tests.core.codec.values import (
    ANY,
    V2,
    json_properties,
    messages,
)


@given(messages, st.integers(0, 60))
def test_a_plain_body_is_read_as_by_the_long_way(message: Message, cut: int) -> None:
    envelope = encode(message, now=1.9e9)
    head = read_header(envelope.properties, envelope.body, accept=ANY)
    for body in (envelope.body, envelope.body[: len(envelope.body) - cut]):
        found = codec.read_plain(head, body)
        if found is not None:
            assert repr(found) == repr(
                tuple(read_body(head, envelope.properties, body, accept=ANY))
            )


@pytest.mark.parametrize(
    "body",
    [
        b"[[],{}]",
        b"{}",
        b"[[],{},null]",
        b"[{},{},{}]",
        b"[[],[],{}]",
        b"[[],{},{}",
        b"",
        b"[[1e999],{},{}]",
    ],
)
def test_a_body_of_another_form_is_not_plain(body: bytes) -> None:
    head = read_header(json_properties(V2), b"[")

    assert head.plain
    assert codec.read_plain(head, body) is None


def test_a_body_above_the_limit_is_not_plain() -> None:
    head = read_header(json_properties(V2), b"[")

    assert codec.read_plain(head, b"[[],{},{}]") == ([], {}, {})
    assert codec.read_plain(head, b"[[],{},{}]", Limits(message_max_bytes=9)) is None
