"""Arbitrary task messages, and how they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from amqtask.core import codec, serialization
from amqtask.core.codec import decode
from amqtask.core.message import Envelope, Message, Properties

ANY = serialization.accepted(("json", "msgpack", "pickle"))
ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"
SIGNATURE = {"task": "shop.log", "args": [], "kwargs": {}, "options": {"task_id": "x"}}


def json_properties(headers: Mapping[str, object] | None = None, **more: Any) -> Properties:
    more = {"content_type": "application/json", "content_encoding": "utf-8"} | more
    return Properties(headers=headers, **more)


def received(body: bytes, headers: Mapping[str, object] | None, **more: Any) -> Message:
    return decode(Envelope(body, json_properties(headers, **more)), accept=ANY)


V2 = {"lang": "py", "task": "shop.add", "id": ID}


header_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3)
    ),
    max_leaves=5,
)
header_names = st.text(max_size=20).filter(
    lambda name: name not in codec.PROTOCOL_HEADERS and not codec.is_broker_header(name)
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ids = st.text(min_size=1, max_size=60)
moments = st.datetimes(
    timezones=st.integers(-720, 720).map(lambda m: timezone(timedelta(minutes=m)))
).map(datetime.isoformat)
limits = st.none() | st.floats(min_value=0.001, max_value=1e9)
signatures = st.none() | st.lists(st.just(SIGNATURE), max_size=2)
messages = st.builds(
    Message,
    id=ids,
    task=ids,
    args=st.lists(plain, max_size=4),
    kwargs=st.dictionaries(st.text(), plain, max_size=4),
    retries=st.integers(0, 100),
    eta=st.none() | moments,
    expires=st.none() | moments,
    time_limit=limits,
    soft_time_limit=limits,
    root_id=ids,
    parent_id=st.none() | ids,
    group=st.none() | ids,
    group_index=st.none() | st.integers(0, 1000),
    callbacks=signatures,
    errbacks=signatures,
    chain=signatures,
    chord=st.none() | st.just(SIGNATURE),
    reply_to=st.none() | ids,
    correlation_id=ids,
    priority=st.integers(0, 255),
    ignore_result=st.none() | st.booleans(),
    origin=st.none() | ids,
    shadow=st.none() | ids,
    argsrepr=st.none() | ids,
    kwargsrepr=st.none() | ids,
    replaced_task_nesting=st.integers(0, 3),
    stamped_headers=st.none() | st.lists(ids, max_size=2),
    stamps=st.none() | st.dictionaries(ids, header_values, min_size=1, max_size=2),
    headers=st.dictionaries(header_names, header_values, max_size=4),
    serializer=st.sampled_from(["json", "msgpack", "pickle", "cloudpickle"]),
    compression=st.none() | st.sampled_from(["application/x-gzip", "application/zstd"]),
)
