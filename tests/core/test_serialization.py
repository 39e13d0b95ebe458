"""Serializers, compared with kombu's in both directions, and their errors."""

from __future__ import annotations

import collections
import contextlib
import enum
import importlib
import math
import pickle
import sys
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import serialization
from amqtask.core.serialization import JSON, MSGPACK, PICKLE, dumps, loads
from amqtask.errors import ConfigurationError, ContentRefused, DecodeError, EncodeError

# the peers to compare with; imported by name, because their annotations are partial
kombu_json: Any = importlib.import_module("kombu.utils.json")
kombu_serialization: Any = importlib.import_module("kombu.serialization")
msgpack: Any = importlib.import_module("msgpack")

ALL = frozenset({JSON, MSGPACK, PICKLE})

offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
texts = st.text() | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Lu"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**60, max_value=2**200)
    | st.floats()
    | texts
)
extended = (
    scalars
    | st.binary()
    | st.datetimes(timezones=st.none() | offsets)
    | st.dates()
    | st.times(timezones=st.none() | offsets)
    | st.decimals()
    | st.uuids()
)
keys = texts | st.integers() | st.floats() | st.booleans() | st.none()


def values(
    leaves: st.SearchStrategy[object], names: st.SearchStrategy[object]
) -> st.SearchStrategy[object]:
    """Nested values of these leaves, small and large enough for both of the encoder's paths."""
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(names, inner)
            | st.lists(inner, min_size=20, max_size=40)
        ),
        max_leaves=30,
    )


def same(left: object, right: object) -> bool:
    """Equal in value, type and order; NaN equals NaN."""
    return repr(left) == repr(right)


# ---------------------------------------------------------------- JSON


@given(values(extended, keys))
def test_kombu_reads_our_json_as_its_own(value: object) -> None:
    ours = kombu_json.loads(dumps(value, "json"))
    theirs = kombu_json.loads(kombu_json.dumps(value))

    assert same(ours, theirs)


@given(values(extended, keys))
def test_we_read_kombus_json_as_it_does(value: object) -> None:
    body = kombu_json.dumps(value).encode()

    assert same(loads(body, JSON, "utf-8", ALL), kombu_json.loads(body))


@given(values(extended, keys))
def test_json_round_trip_is_what_kombu_makes_of_it(value: object) -> None:
    once = loads(dumps(value, "json"), JSON, "utf-8", ALL)

    assert same(once, kombu_json.loads(kombu_json.dumps(value)))


@given(
    st.recursive(
        st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
        | st.sampled_from(
            ["NaN", "-Infinity", "null", "true", '"\\ud83d\\ude00"', '"\\ud800"', '"\\u0000"']
        )
        | st.from_regex(
            r'"(\\u00[0-9a-fA-F]{2}|\\u[dD][89abAB][0-9a-f]{2}|[a-z _]|\\[nt"\\])*"', fullmatch=True
        ),
        lambda inner: (
            st.lists(inner).map(lambda items: "[" + ", ".join(items) + "]")
            | st.lists(inner).map(
                lambda items: "{" + ",".join(f'"k{len(i) % 3}": {i}' for i in items) + "}"
            )
            | inner.map(lambda item: f'{{"\\u005f_type__": "bytes", "__value__": {item}}}')
        ),
        max_leaves=12,
    )
)
def test_any_json_text_is_read_as_kombu_reads_it(text: str) -> None:
    try:
        expected = kombu_json.loads(text)
    except Exception:  # noqa: BLE001 - kombu lets everything through here
        with pytest.raises(DecodeError):
            loads(text.encode(), JSON, "utf-8", ALL)
        return

    assert same(loads(text.encode(), JSON, "utf-8", ALL), expected)


class Colour(enum.IntEnum):
    RED = 3


class Point(NamedTuple):
    x: int
    y: int


class Money:
    def __json__(self) -> object:
        return {"amount": Decimal("1.50")}


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        [Colour.RED, 1],
        Point(1, 2),
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        Money(),
        [Money()],
        {7: "a", None: "b", True: "c", 2.5: "d"},
        float("nan"),
        [float("inf"), None, "null"],
        "\ud800",
        "\x00",
        2**100,
        b"\xff\x00",
        b"text",
        datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        date(2024, 2, 29),
        time(1, 2, 3, 4),
        Decimal("NaN"),
        uuid.UUID(int=5),
        {"__type__": "nothing", "__value__": 1, "more": 2},
    ],
)
def test_json_forms_are_kombus(value: object) -> None:
    theirs = kombu_json.loads(kombu_json.dumps(value))

    assert same(kombu_json.loads(dumps(value, "json")), theirs)
    assert same(loads(dumps(value, "json"), JSON, "utf-8", ALL), theirs)


def test_large_values_take_the_same_form() -> None:
    for value in (
        [list(range(1000))],
        [{"id": n, "when": date(2024, 1, n % 28 + 1)} for n in range(100)],
        {str(n): n for n in range(99)},
    ):
        assert loads(dumps(value, "json"), JSON, "utf-8", ALL) == value


def test_a_registered_type_travels_under_its_marker() -> None:
    serialization.register_type(
        complex, "complex", lambda c: [c.real, c.imag], lambda v: complex(*v)
    )

    assert loads(dumps({"z": 1 + 2j}, "json"), JSON, "utf-8", ALL) == {"z": 1 + 2j}


def test_a_registered_type_without_marker_is_read_as_what_it_became() -> None:
    serialization.register_type(MappingProxyType, None, dict)

    assert loads(dumps([MappingProxyType({"a": 1})], "json"), JSON, "utf-8", ALL) == [{"a": 1}]


def test_a_marker_needs_a_decoder() -> None:
    with pytest.raises(ConfigurationError, match="needs a decode function"):
        serialization.register_type(range, "range", list)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"[1", "not JSON: .* line 1, column 3"),
        (b"\xff", "not UTF-8: byte 0"),
        (b'["\x00"]', "not JSON: Invalid control character"),
        (b"\xef\xbb\xbf1", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 5000, "cannot be read: Exceeds the limit"),
        (b'{"__type__":"nope","__value__":1}', "unknown __type__ 'nope'"),
        (b'{"__type__":["x"],"__value__":1}', "unknown __type__"),
        (b'{"__type__":"decimal","__value__":"x"}', "cannot be read"),
        (b'{"__type__":"uuid","__value__":{"os":1}}', "cannot be read"),
        (b'{"__type__":"bytes","__value__":5}', "cannot be read"),
        (b'{"__type__":"datetime","__value__":"today"}', "cannot be read"),
    ],
)
def test_bad_json_is_one_sentence(body: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        loads(body, JSON, "utf-8", ALL)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- MessagePack

packable = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
)


@given(values(packable, st.text() | st.binary()))
def test_msgpack_is_kombus_in_both_directions(value: object) -> None:
    _, _, theirs = kombu_serialization.dumps(value, "msgpack")
    expected = msgpack.unpackb(theirs, raw=False)
    ours = dumps(value, "msgpack")

    assert same(msgpack.unpackb(ours, raw=False), expected)
    assert same(loads(theirs, MSGPACK, "binary", ALL), expected)
    assert same(loads(ours, MSGPACK, "binary", ALL), expected)


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Point(1, 2), collections.OrderedDict(a=Colour.RED), {5: 6}, bytearray(b"x")],
)
def test_msgpack_writes_subclasses_as_kombu_does(value: object) -> None:
    theirs = msgpack.packb(value, use_bin_type=True)

    assert msgpack.unpackb(dumps(value, "msgpack"), strict_map_key=False) == msgpack.unpackb(
        theirs, strict_map_key=False
    )


def test_msgpack_carries_an_aware_time_as_the_standard_timestamp() -> None:
    value = [datetime(2024, 1, 1, 12, tzinfo=UTC)]

    assert loads(dumps(value, "msgpack"), MSGPACK, "binary", ALL) == value
    assert msgpack.unpackb(dumps(value, "msgpack"), timestamp=3) == value


@given(st.binary())
def test_arbitrary_bytes_are_a_value_or_a_decode_error(body: bytes) -> None:
    for content_type in (JSON, MSGPACK):
        with contextlib.suppress(DecodeError):
            loads(body, content_type, None, ALL)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xa1\xff", b"\x91" * 100_000, b"\x92\x01", b"\x01\x01", b"\x81\x80\x01", b"\xc1"],
)
def test_bad_msgpack_is_one_sentence(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"not MessagePack|nested too deeply"):
        loads(body, MSGPACK, "binary", ALL)


# ---------------------------------------------------------------- pickle


def test_pickle_is_kombus_in_both_directions() -> None:
    value = {"a": {1, 2}, "b": Colour.RED}

    assert pickle.loads(dumps(value, "pickle")) == value
    assert loads(kombu_serialization.dumps(value, "pickle")[2], PICKLE, "binary", ALL) == value


def test_cloudpickle_carries_a_closure() -> None:
    factor = 7
    decoded = loads(dumps([lambda x: x * factor], "cloudpickle"), PICKLE, "binary", {"cloudpickle"})

    assert isinstance(decoded, list)
    assert decoded[0](6) == 42


def test_a_truncated_pickle_is_a_decode_error() -> None:
    body = dumps([["text", 1, Colour.RED], {"a": {1}}, {}], "pickle")
    for size in range(len(body)):
        with pytest.raises(DecodeError, match="cannot be unpickled"):
            loads(body[:size], PICKLE, "binary", ALL)


def test_a_pickle_of_an_unknown_module_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="No module named 'nowhere'"):
        loads(b"cnowhere\nthing\n.", PICKLE, "binary", ALL)


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content_type",
    [PICKLE, "application/x-python-serialize; charset=binary", "APPLICATION/X-PYTHON-SERIALIZE"],
)
def test_a_refused_pickle_is_never_loaded(tmp_path: Path, content_type: str) -> None:
    canary = tmp_path / "canary"
    body = pickle.dumps(Canary(canary))

    with pytest.raises(ContentRefused, match="accept_content"):
        loads(body, content_type, "binary", serialization.accepted(("json", "msgpack")))
    assert not canary.exists()

    loads(body, content_type, "binary", serialization.accepted(("pickle",)))
    assert canary.exists()


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/data", "text/plain", "application/x-yaml", "x" * 500, "\ud800"],
)
def test_an_unknown_content_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(ContentRefused, match="can be read"):
        loads(b"[]", content_type, "utf-8", ALL)


@pytest.mark.parametrize("encoding", ["gzip", "utf-16", "rot13"])
def test_an_encoding_that_the_type_does_not_have_is_refused(encoding: str) -> None:
    with pytest.raises(ContentRefused, match=encoding):
        loads(b"[]", JSON, encoding, ALL)


@pytest.mark.parametrize("encoding", [None, "", "UTF-8", "utf8", "us-ascii", "binary"])
def test_spellings_of_the_encoding_are_accepted(encoding: str | None) -> None:
    assert loads(b"[]", "application/json; charset=utf-8", encoding, ALL) == []


def test_accept_content_takes_names_and_mime_types() -> None:
    assert serialization.accepted(("json", "application/x-msgpack", "cloudpickle")) == ALL
    assert loads(b"1", JSON, None, ("json",)) == 1
    assert loads(dumps(1, "pickle"), PICKLE, None, ["cloudpickle"]) == 1

    with pytest.raises(ConfigurationError, match=r"'jsn'.*Did you mean 'json'"):
        serialization.accepted(("jsn",))
    with pytest.raises(ConfigurationError, match="Known are json"):
        dumps(1, "yaml")


# ---------------------------------------------------------------- errors while encoding


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __json__(self) -> object:
        raise ValueError("two\nlines")


def circle() -> object:
    inner: list[object] = []
    inner.append(inner)
    return inner


def deep() -> object:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    return value


def text_of(value: object, name: str) -> str:
    with pytest.raises(EncodeError) as caught:
        dumps([[value], {}, {}], name, subject="Task shop.add", roots=("args", "kwargs", "embed"))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_the_error_names_type_and_place(name: str) -> None:
    assert text_of({"when": [1, {2}]}, name) == (
        f"Task shop.add: args[0]['when'][1] is of type set, which {name} cannot write."
    )
    assert f"args[0] is of type {__name__}.Broken" in text_of(Broken(), name)
    assert "args[0][0] contains itself" in text_of(circle(), name)
    assert "nested too deeply" in text_of(deep(), name)


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_a_deep_value_is_refused_at_once_whatever_the_recursion_limit(name: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(4_000)
    try:
        assert "nested too deeply" in text_of(deep(), name)
    finally:
        sys.setrecursionlimit(limit)


def test_the_error_names_a_key() -> None:
    assert "a key of args[0]['a'] is of type tuple" in text_of({"a": {(1, 2): 3}}, "json")


def test_numbers_and_text_out_of_range() -> None:
    assert "args[0] is of type int" in text_of(10**5000, "json")
    assert "args[0] is of type int" in text_of(2**64, "msgpack")
    assert "args[0] is of type str" in text_of("\ud800", "msgpack")


@pytest.mark.parametrize(
    "value", [uuid.UUID(int=1), Decimal(1), datetime.fromisoformat("2024-01-01"), {1}, object()]
)
def test_msgpack_never_turns_a_value_silently_into_another(value: object) -> None:
    assert "which msgpack cannot write" in text_of(value, "msgpack")


def test_pickle_names_what_it_cannot_write() -> None:
    assert "args[0]['f'] is of type function, which pickle cannot write" in text_of(
        {"f": lambda: 1}, "pickle"
    )


def test_the_value_itself_may_be_at_fault() -> None:
    with pytest.raises(
        EncodeError, match=r"^the value is of type object, which json cannot write\.$"
    ):
        dumps(object(), "json")


def test_json_writes_nan_as_kombu_does() -> None:
    decoded = loads(dumps([math.nan], "json"), JSON, "utf-8", ALL)

    assert isinstance(decoded, list)
    assert math.isnan(decoded[0])
