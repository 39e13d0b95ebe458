"""Arbitrary header values, tables and properties, and what other clients can do with them."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from amqtask.core.message import Properties

TEXT = st.text(st.characters(codec="utf-8"))
SHORT = st.text(st.characters(codec="utf-8"), max_size=30)
# pamqp reads seconds beyond the year 2106 as milliseconds.
MOMENTS = st.integers(0, 2**32 - 1).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
NAIVE = datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=UTC).replace(tzinfo=None)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.none() | st.booleans() | INT64 | TEXT | MOMENTS
OURS = SCALARS | st.floats(allow_nan=False) | st.binary(max_size=40).filter(lambda b: not _utf8(b))
PIKA_READS = SCALARS | st.binary(max_size=40)
PAMQP_WRITES = SCALARS | st.binary(max_size=40).map(bytearray)


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def tables(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    values = st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(SHORT, inner), max_leaves=6
    )
    return st.dictionaries(SHORT, values, max_size=4)


def properties(headers: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[Properties]:
    optional = st.none() | SHORT
    return st.builds(
        Properties,
        content_type=optional,
        content_encoding=optional,
        headers=st.none() | headers,
        delivery_mode=st.none() | st.integers(0, 255),
        priority=st.none() | st.integers(0, 255),
        correlation_id=optional,
        reply_to=optional,
        expiration=optional,
        message_id=optional,
        timestamp=st.none() | st.integers(0, 2**32),
        type=optional,
        user_id=optional,
        app_id=optional,
        cluster_id=optional,
    )
