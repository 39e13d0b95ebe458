"""Messages put together from pieces are the messages the codec makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp import frames
from amqtask.amqp.stencil import Stencil
from amqtask.call import new_id
from amqtask.core import codec
from amqtask.core.message import Message, Publication
from amqtask.errors import EncodeError, PayloadTooLarge

SENT = 1_800_000_000.25

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
values = st.none() | st.integers(-(2**63), 2**63 - 1) | texts | st.lists(st.integers(0, 9))


def message(task_id: str, **fields: object) -> Message:
    return Message(id=task_id, correlation_id=task_id, root_id=task_id, **fields)  # type: ignore[arg-type]  # a test's fields


def whole(made: Message, sent: float) -> Publication:
    """The publication without pieces."""
    envelope = codec.encode(made, sent=sent)
    return Publication("e", "k", envelope, True, frames.encode_properties(envelope.properties))


@given(
    task=texts,
    args=st.lists(values, max_size=3).map(tuple),
    kwargs=st.dictionaries(texts, values, max_size=3),
    later=st.floats(0, 3),
    serializer=st.sampled_from(["json", "msgpack"]),
    common=st.fixed_dictionaries(
        {},
        optional={
            "reply_to": texts,
            "priority": st.integers(0, 255),
            "origin": texts,
            "ignore_result": st.booleans(),
            "time_limit": st.floats(0.1, 100),
            "shadow": texts,
        },
    ),
)
def test_a_message_from_pieces_is_the_message_the_codec_makes(
    task: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    later: float,
    serializer: str,
    common: dict[str, object],
) -> None:
    common |= {"task": task, "serializer": serializer}
    stencil = Stencil("e", "k", message(new_id(), **common), SENT, codec.LIMITS)
    for sent in (SENT, SENT + later):
        task_id = new_id()
        made = stencil.publication(task_id, args, kwargs, sent)
        assert made == whole(message(task_id, args=args, kwargs=kwargs, **common), sent)
        assert made.header is not None
        assert frames.decode_properties(made.header) == made.envelope.properties


def test_what_cannot_be_sent_is_refused_as_by_the_codec() -> None:
    limits = codec.Limits(message_max_bytes=100)
    stencil = Stencil("e", "k", message(new_id(), task="a.b"), SENT, limits)
    with pytest.raises(PayloadTooLarge, match=r"a\.b.*message_max_bytes"):
        stencil.publication(new_id(), ("x" * 100,), {}, SENT)
    with pytest.raises(EncodeError, match=r"Task a\.b.*args"):
        stencil.publication(new_id(), (object(),), {}, SENT)
