"""Values to bytes and back: the JSON, MessagePack and pickle that Celery's peers write and read.

JSON carries kombu's extensions: ``{"__type__": "datetime", "__value__": "…"}`` for types JSON lacks, and objects with a
``__json__`` method. Each format has a fast path (msgspec) for values where its bytes mean exactly what kombu's mean, and an
exact path for all others, so what a value becomes never depends on which path it took.

Every function is pure and may be called from any thread. Encoding raises ``EncodeError`` only, decoding ``DecodeError``
only; a content type outside ``accept`` raises ``ContentRefused`` before any decoder sees the body.
"""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

import msgspec

from amqtask.errors import ConfigurationError, ContentRefused, DecodeError, EncodeError
from amqtask.names import suggestion

T = TypeVar("T")

JSON = "application/json"
MSGPACK = "application/x-msgpack"
PICKLE = "application/x-python-serialize"

Path = tuple[object, ...]


class Serializer(msgspec.Struct, frozen=True):
    """One format: what the AMQP properties say, and the two directions.

    ``encode`` may raise anything; ``dumps`` turns that into an ``EncodeError`` that says where the value is. ``decode``
    raises ``DecodeError`` only.
    """

    name: str
    content_type: str
    content_encoding: str
    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]


class _NoForm(TypeError):
    """The format has no form for a value of this type; the caller says which and where."""


# ---------------------------------------------------------------- JSON

_TEXT = frozenset({str})
_SCALARS: frozenset[type] = frozenset({str, int, bool, type(None), float})
_SCALARS_BUT_FLOAT = _SCALARS - {float}


# Looking at types first pays off while there are few containers; json's own encoder is faster on hundreds of small ones.
_MOST_CONTAINERS = 24
_FEW_ITEMS = 12  # below this a loop is faster than building a set


def _plain(value: Any, scalars: frozenset[type], keys: frozenset[type]) -> bool:
    """Whether ``value`` is known to hold nothing but these exact types in a few lists, tuples and dicts.

    Subclasses are not plain: msgspec and json disagree on some of them (an ``IntEnum``, a named tuple).
    """
    waiting = [value]
    budget = _MOST_CONTAINERS
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind is dict:
            if len(value) < _FEW_ITEMS:
                for key in value:
                    if type(key) not in keys:
                        return False
            elif not keys.issuperset(map(type, value)):
                return False
            value = value.values()
        elif kind is not list and kind is not tuple:
            return False
        if len(value) < _FEW_ITEMS or not scalars.issuperset(map(type, value)):
            for item in value:
                if type(item) not in scalars:
                    waiting.append(item)  # noqa: PERF401 - a comprehension costs more than the usual empty loop
        budget -= 1
        if len(waiting) > budget:
            return False
    return True


_json_encode_fast = msgspec.json.Encoder().encode
_json_decode_fast = msgspec.json.Decoder().decode


def _json_encode(value: object) -> bytes:
    try:
        if _plain(value, _SCALARS, _TEXT):
            data = _json_encode_fast(value)
            # msgspec writes NaN and the infinities as null, json by name. Where neither can be, the bytes are right.
            if b"null" not in data or _plain(value, _SCALARS_BUT_FLOAT, _TEXT):
                return data
    except ValueError:
        pass  # lone surrogates, integers of thousands of digits: the exact path knows them, or says why not
    return _json_encode_exact(value).encode("ascii")


def _spells_ascii(body: bytes) -> bool:
    """Whether some letter is escaped: an extension's key may come as ``"\\u005f_type__"``."""
    return b"\\u005" in body or b"\\u006" in body or b"\\u007" in body


def _json_decode(body: bytes) -> object:
    if b"__type__" not in body and (b"\\u00" not in body or not _spells_ascii(body)):
        try:
            return _json_decode_fast(body)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            pass  # NaN, lone surrogates, 1e999, which json accepts; or an error, which the exact path words better
    try:
        return json.loads(body.decode("utf-8"), object_hook=_json_object)
    except UnicodeDecodeError as error:
        raise DecodeError(f"The body is not UTF-8: byte {error.start} is invalid.") from None
    except RecursionError:
        raise DecodeError("The body is nested too deeply to be read.") from None
    except json.JSONDecodeError as error:
        raise DecodeError(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except Exception as error:  # noqa: BLE001 - a decoder of an extension met a value it cannot read, in any way
        raise DecodeError(f"The body cannot be read: {brief(error)}.") from None


_plain_arguments = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], dict[str, Any]]).decode


def plain_arguments(body: bytes) -> tuple[list[Any], dict[str, Any], dict[str, Any]] | None:
    """Decode a JSON body that is ``[list, object, object]`` with nothing in it that needs a look; ``None`` for any other."""
    if b"__type__" in body or b"\\u00" in body:
        return None
    try:
        return _plain_arguments(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


# The same names, forms and order as kombu.utils.json: datetime before date, because a datetime is a date too.
_json_encoders: dict[type, tuple[str | None, Callable[[Any], object]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    uuid.UUID: ("uuid", lambda value: {"hex": value.hex}),
}
_json_decoders: dict[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda parts: uuid.UUID(**parts),
    "bytes": lambda text: text.encode("utf-8"),
    "base64": lambda text: base64.b64decode(text.encode("utf-8")),
}


def register_type(
    kind: type[T],
    marker: str | None,
    encode: Callable[[T], object],
    decode: Callable[[Any], T] | None = None,
) -> None:
    """Teach the JSON serializer a type, as ``kombu.utils.json.register_type`` does. Call it at import, on both sides.

    Args:
        kind: the type; its subclasses are written the same way.
        marker: the ``__type__`` on the wire, or ``None`` to write what ``encode`` returns and read it back as that.
        encode: makes of a value something JSON can hold.
        decode: makes the value again; may be left out when ``marker`` is ``None``.

    Raises:
        ConfigurationError: a marker without ``decode``.
    """
    if marker is not None and decode is None:
        raise ConfigurationError(
            f"The JSON type {marker!r} needs a decode function, or no marker at all."
        )
    _json_encoders[kind] = (marker, encode)
    if marker is not None and decode is not None:
        _json_decoders[marker] = decode


def _json_default(value: object) -> object:
    reducer = getattr(value, "__json__", None)
    if reducer is not None:
        return reducer()
    django = sys.modules.get("django.utils.functional")  # lazy translations exist only where it is
    if django is not None and isinstance(value, django.Promise):
        return str(value)
    for kind, (marker, encode) in _json_encoders.items():
        if isinstance(value, kind):
            content = encode(value)
            return content if marker is None else {"__type__": marker, "__value__": content}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode("utf-8")}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}
    raise _NoForm


_json_encode_exact = json.JSONEncoder(default=_json_default, separators=(",", ":")).encode


def _json_object(pairs: dict[str, object]) -> object:
    if len(pairs) != 2 or "__type__" not in pairs or "__value__" not in pairs:
        return pairs
    marker = pairs["__type__"]
    decode = _json_decoders.get(marker) if isinstance(marker, str) else None
    if decode is None:
        raise DecodeError(f"unknown __type__ {shown(marker)}")
    return decode(pairs["__value__"])


# ---------------------------------------------------------------- MessagePack

_PACK_SCALARS: frozenset[type] = _SCALARS | {bytes, bytearray, memoryview, msgspec.msgpack.Ext}
_PACK_KEYS: frozenset[type] = frozenset({str, bytes, int, float, bool, type(None)})
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


def _msgpack_encode(value: object) -> bytes:
    if _plain(value, _PACK_SCALARS, _PACK_KEYS):
        return _pack(value)
    return _pack(_packable(value))


def _packable(value: object) -> object:
    """A copy made of exact types. msgspec alone would turn a UUID, a set or a dataclass silently into something else."""
    if isinstance(value, dict):
        return {_packable(key): _packable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_packable(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, bool | bytearray | memoryview | msgspec.msgpack.Ext):
        return value
    if isinstance(value, bytes):
        return bytes(value)
    # the value of a subclass (an IntEnum, a lazy string), never what the subclass prints
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value  # the timestamp of the MessagePack specification
    raise _NoForm


def _msgpack_decode(body: bytes) -> object:
    try:
        return _unpack(body)
    except RecursionError:
        raise DecodeError("The body is nested too deeply to be read.") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise DecodeError(f"The body is not MessagePack: {brief(error)}.") from None


# ---------------------------------------------------------------- pickle


def _pickle_encode(value: object) -> bytes:
    import pickle  # here, because most processes never use it

    return pickle.dumps(value, protocol=4)  # 4, as kombu has it: a peer may run an older Python


def _cloudpickle_encode(value: object) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, protocol=4)
    return data


def _pickle_decode(body: bytes) -> object:
    import pickle

    try:
        return pickle.loads(body)
    except RecursionError:
        raise DecodeError("The body is nested too deeply to be read.") from None
    except Exception as error:  # noqa: BLE001 - unpickling runs whatever the pickle names
        raise DecodeError(f"The body cannot be unpickled: {brief(error)}.") from None


# ---------------------------------------------------------------- by name

_SERIALIZERS = {
    "json": Serializer("json", JSON, "utf-8", _json_encode, _json_decode),
    "msgpack": Serializer("msgpack", MSGPACK, "binary", _msgpack_encode, _msgpack_decode),
    "pickle": Serializer("pickle", PICKLE, "binary", _pickle_encode, _pickle_decode),
    "cloudpickle": Serializer("cloudpickle", PICKLE, "binary", _cloudpickle_encode, _pickle_decode),
}
_BY_TYPE = {
    JSON: _SERIALIZERS["json"],
    MSGPACK: _SERIALIZERS["msgpack"],
    PICKLE: _SERIALIZERS["pickle"],
}
# What a known content type may call its encoding. kombu ignores the field for these types; anything else here ("gzip",
# "utf-16") says that the body is something we would misread.
_ENCODINGS = frozenset({None, "", "utf-8", "utf8", "us-ascii", "ascii", "binary", "ascii-8bit"})

NAMES = tuple(_SERIALIZERS)


def serializer(name: str) -> Serializer:
    """The serializer of this name (``json``, ``msgpack``, ``pickle``, ``cloudpickle``) or mime type.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    found = _SERIALIZERS.get(name) or _BY_TYPE.get(name)
    if found is None:
        hint = suggestion(str(name), NAMES) or f" Known are {', '.join(NAMES)}."
        raise ConfigurationError(f"Unknown serializer {name!r}.{hint}")
    return found


def of_content_type(content_type: str | None) -> Serializer:
    """The serializer of a received content type; parameters ("; charset=utf-8") are ignored.

    Raises:
        ContentRefused: no content type, or one that amqtask does not have.
    """
    found = _BY_TYPE.get(content_type or "")
    if found is None:
        found = _BY_TYPE.get((content_type or "").partition(";")[0].strip().lower())
        if found is None:
            stated = f"content type {shown(content_type)}" if content_type else "no content type"
            raise ContentRefused(
                f"The message has {stated}, and only {', '.join(_BY_TYPE)} can be read."
            )
    return found


def accepted(names: Iterable[str]) -> frozenset[str]:
    """The mime types that a list of serializer names or mime types (``accept_content``) stands for.

    Raises:
        ConfigurationError: a name that is no serializer.
    """
    return frozenset(serializer(name).content_type for name in names)


@cache
def _names_of(content_type: str) -> tuple[str, ...]:
    return tuple(each.name for each in _SERIALIZERS.values() if each.content_type == content_type)


def choose(
    content_type: str | None, content_encoding: str | None, accept: Container[str]
) -> Serializer:
    """The serializer for a received body, if its content is acceptable. No decoder is called.

    Args:
        content_type: the AMQP property; parameters ("; charset=utf-8") are ignored.
        content_encoding: the AMQP property.
        accept: names or mime types; ``accepted(...)`` is the fastest form.

    Raises:
        ContentRefused: no content type, one that is not in ``accept``, or an encoding that the type does not have.
    """
    found = _BY_TYPE.get(content_type or "") or of_content_type(content_type)
    if found.content_type not in accept and not any(
        name in accept for name in _names_of(found.content_type)
    ):
        raise ContentRefused(
            f"The message is {found.name} ({found.content_type}), which accept_content does not list."
        )
    if content_encoding not in _ENCODINGS and str(content_encoding).lower() not in _ENCODINGS:
        raise ContentRefused(
            f"The message has content encoding {shown(content_encoding)}, which {found.name} does not have."
        )
    return found


def dumps(value: object, name: str, *, subject: str = "", roots: Sequence[str] = ()) -> bytes:
    """Encode a value.

    Args:
        value: what to write.
        name: serializer name or mime type.
        subject: begins the error message ("Task shop.add"), when given.
        roots: names for the elements of ``value`` itself, used in error messages instead of ``[0]``, ``[1]``.

    Raises:
        EncodeError: part of the value cannot be written; the message names its type and where it is.
        ConfigurationError: unknown serializer.
    """
    found = _SERIALIZERS.get(name) or serializer(name)
    try:
        return found.encode(value)
    except Exception as error:  # noqa: BLE001 - users' __json__ and __reduce__ methods run here
        raise EncodeError(_explain(value, found, error, subject, roots)) from None


def loads(
    body: bytes, content_type: str | None, content_encoding: str | None, accept: Container[str]
) -> object:
    """Decode a received body, if ``accept`` (names or mime types) lists its content type.

    Raises:
        ContentRefused: see ``choose``; the body has not been touched.
        DecodeError: the body is not what its content type says.
    """
    return choose(content_type, content_encoding, accept).decode(body)


# ---------------------------------------------------------------- saying what is wrong


def type_name(value: object) -> str:
    """The type of a value as users know it: ``set``, ``decimal.Context``, ``shop.models.Order``."""
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def shown(value: object) -> str:
    """A value in at most 80 characters, for an error message. Never raises, and never walks through a container."""
    if isinstance(value, str | bytes | bytearray):
        text = repr(value[:80])
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        text = type_name(value)
    else:
        try:
            text = " ".join(repr(value).split())
        except Exception:  # noqa: BLE001 - a broken __repr__ of somebody's object
            text = type_name(value)
    return text if len(text) <= 80 else text[:79] + "…"


def brief(error: BaseException, limit: int = 200) -> str:
    """An exception's text in one line of at most ``limit`` characters, for an error that wraps it. Never raises."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a broken __str__ of somebody's exception
        text = ""
    text = text.rstrip(".") or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _explain(
    value: object, found: Serializer, error: Exception, subject: str, roots: Sequence[str]
) -> str:
    """One sentence: which part of the value cannot be written, where it is, and why."""
    lead = f"{subject}: " if subject else ""
    try:
        path, offender, reason = _offender(value, found, error, (), frozenset())
    except RecursionError:
        return f"{lead}the value is nested too deeply for {found.name}."
    where = _spell(path, roots)
    if reason is None:
        return f"{lead}{where} contains itself, which {found.name} cannot write."
    detail = "" if isinstance(reason, _NoForm) else f": {brief(reason)}"
    return (
        f"{lead}{where} is of type {type_name(offender)}, which {found.name} cannot write{detail}."
    )


DEEPEST = 64  # levels into a value that the search for its fault goes


class _Key(msgspec.Struct, frozen=True):
    """The last step of a path that ends at a key of a mapping rather than at a value."""


def _offender(
    value: object, found: Serializer, error: Exception, path: Path, above: frozenset[int]
) -> tuple[Path, object, Exception | None]:
    """The innermost part of ``value`` that fails alone, with its path and the reason; ``None`` for a circle."""
    if id(value) in above:
        return path, value, None
    if len(path) >= DEEPEST:
        # Every level encodes all below it again: without an end, a nested value costs the square of its depth.
        if isinstance(error, RecursionError):
            raise error
        return path, value, error
    inside = above | {id(value)}
    children: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        for key in value:
            failure = _failure({key: None}, found)
            if failure is not None:
                return (*path, _Key()), key, failure
        children = value.items()
    elif isinstance(value, list | tuple) or (
        isinstance(value, set | frozenset) and found.content_type == PICKLE
    ):
        children = enumerate(value)
    for key, child in children:
        failure = _failure(child, found)
        if failure is not None:
            return _offender(child, found, failure, (*path, key), inside)
    return path, value, error


def _failure(value: object, found: Serializer) -> Exception | None:
    try:
        found.encode(value)
    except Exception as error:  # noqa: BLE001 - any failure answers the question
        return error
    return None


def _spell(path: Path, roots: Sequence[str]) -> str:
    if path and isinstance(path[-1], _Key):
        return f"a key of {_spell(path[:-1], roots)}"
    if not path:
        return "the value"
    head, *rest = path
    named = isinstance(head, int) and head < len(roots)
    start = roots[head] if named and isinstance(head, int) else f"[{shown(head)}]"
    return start + "".join(f"[{shown(step)}]" for step in rest)
