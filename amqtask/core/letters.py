"""Dead letters as people look at them: why each is dead, which ones are meant, and which belong together.

What a worker dead-lettered carries ``amqtask-dead-`` headers (``dead.py``); what the broker dead-lettered has only its
``x-death``. Both are read here into one form, and so is a message that is no task at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from amqtask.core import codec, dead, serialization
from amqtask.core.codec import is_broker_header
from amqtask.core.dropped import REASONS, BrokerDeath, broker_deaths
from amqtask.core.message import Properties
from amqtask.errors import ContentRefused, MessageError

SAFE = serialization.accepted(("json", "msgpack"))  # what may be decoded to be looked at


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its body.

    Attributes:
        id: the task's id; for what is no task, a fingerprint that stays the same.
        task: the task's name, as far as it can be told.
        reason: why it is dead, in a word or two: ``"failure"``, ``"undecodable"``, ``"delivery limit"``.
        exception: type of the exception; empty where the broker dead-lettered it.
        message: text of the exception.
        traceback: of the exception.
        source: the queue it died in.
        node: the worker that says so.
        attempts: starts, where a worker counted them.
        time: when it died, if told.
        first_time: when it died first.
        rounds: how often it has been sent back.
        doubt: why it may be in another queue too.
        broker: what the broker says, newest first.
        size: bytes of the body.
    """

    id: str
    task: str | None
    reason: str
    exception: str = ""
    message: str = ""
    traceback: str | None = None
    source: str | None = None
    node: str | None = None
    attempts: int | None = None
    time: datetime | None = None
    first_time: datetime | None = None
    rounds: int = 0
    doubt: str | None = None
    broker: tuple[BrokerDeath, ...] = ()
    size: int = 0

    @property
    def error(self) -> str:
        """The exception's type, else the reason: what letters are grouped by."""
        return self.exception or self.reason


def read(properties: Properties | None, body: bytes, queue: str) -> Letter:
    """Tell why a message is dead. Never raises; the body is not decoded.

    Args:
        properties: as received; ``None`` when not even they can be read.
        body: as received.
        queue: the queue of dead letters it was found in.
    """
    properties = properties or Properties()
    headers = properties.headers or {}
    known = codec.identify(properties)
    broker = broker_deaths(headers, queue.removesuffix(".dead"))
    task_id = known.id or fingerprint(properties, body)[:16]
    rounds = dead.rounds(headers)
    doubt = _text(headers, dead.DOUBT)
    first = _time(headers.get(dead.FIRST_TIME))
    reason = _text(headers, f"{dead.PREFIX}reason")
    time = _time(headers.get(f"{dead.PREFIX}time"))
    newest = broker[0] if broker else None
    if reason is not None and (
        newest is None or newest.time is None or time is None or time >= newest.time
    ):
        attempts = headers.get(f"{dead.PREFIX}attempts")
        return Letter(
            id=task_id,
            task=known.task,
            reason=reason,
            exception=_text(headers, f"{dead.PREFIX}exception") or "",
            message=_text(headers, f"{dead.PREFIX}message") or "",
            traceback=_text(headers, f"{dead.PREFIX}traceback"),
            source=_text(headers, f"{dead.PREFIX}queue"),
            node=_text(headers, f"{dead.PREFIX}node"),
            attempts=attempts if isinstance(attempts, int) else None,
            time=time,
            first_time=first or time,
            rounds=rounds,
            doubt=doubt,
            broker=broker,
            size=len(body),
        )
    if newest is not None:
        return Letter(
            id=task_id,
            task=known.task,
            reason=REASONS.get(newest.reason, newest.reason),
            source=newest.queue,
            time=newest.time,
            first_time=first or newest.time,
            rounds=rounds,
            doubt=doubt,
            broker=broker,
            size=len(body),
        )
    source = queue.removesuffix(".dead")
    return Letter(
        id=task_id,
        task=known.task,
        reason="unknown",
        source=source if source != queue else None,
        rounds=rounds,
        doubt=doubt,
        size=len(body),
    )


def fingerprint(properties: Properties, body: bytes) -> str:
    """What tells one message from another and stays the same when the broker hands it out again."""
    headers = {k: v for k, v in (properties.headers or {}).items() if not is_broker_header(k)}
    rest = msgspec.structs.replace(properties, headers=None)
    digest = hashlib.sha256(body)
    digest.update(repr((rest, sorted(headers.items()))).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _text(headers: Mapping[str, object], name: str) -> str | None:
    value = headers.get(name)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromtimestamp(codec.moment(value), UTC)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- which ones


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: all that match each condition given.

    Attributes:
        task: glob over task names.
        error: glob over exception types and reasons.
        since: died at this time or later; a letter that tells no time is not among them.
        ids: one of these.
    """

    task: str | None = None
    error: str | None = None
    since: datetime | None = None
    ids: frozenset[str] = frozenset()

    def matches(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        if self.ids and letter.id not in self.ids:
            return False
        if self.task is not None and not fnmatchcase(letter.task or "", self.task):
            return False
        if self.error is not None and not (
            fnmatchcase(letter.exception, self.error) or fnmatchcase(letter.reason, self.error)
        ):
            return False
        return self.since is None or (letter.time is not None and letter.time >= self.since)

    @property
    def everything(self) -> bool:
        """Whether there is no condition."""
        return self == Filter()


_AGO = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def parse_since(text: str, now: datetime) -> datetime:
    """A time as people give it: ``2h`` ago, or ISO 8601 (without an offset it is UTC).

    Raises:
        ValueError: neither; the text says how to write one.
    """
    found = _AGO_PATTERN.fullmatch(text.strip())
    if found is not None:
        try:
            return now - timedelta(seconds=float(found[1]) * _AGO[found[2]])
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write how long ago, like 90s, 30m, 2h or 7d, or a time like 2026-11-01T12:00"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?")


def parse_rate(text: str) -> float:
    """Messages a second: ``50/s``, ``600/m``, ``100/h``, or ``50``.

    Raises:
        ValueError: not a rate above zero; the text says how to write one.
    """
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) / _AGO[found[2] or "s"] if found is not None else 0.0
    if rate <= 0:
        raise ValueError(f"{text!r} is no rate: write it like 50/s, 600/m or 100/h")
    return rate


# ---------------------------------------------------------------- which belong together


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Letters of one queue with the same task and the same error."""

    queue: str
    task: str | None
    error: str
    reason: str
    count: int
    oldest: datetime | None
    newest: datetime | None
    message: str  # of the newest
    sample: str  # id of the newest
    doubtful: int = 0


class Groups:
    """Counts letters by queue, task and error. Memory grows with the groups, not with the letters."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str | None, str, str], Group] = {}

    def add(self, queue: str, letter: Letter) -> None:
        """Count one letter."""
        key = (queue, letter.task, letter.error, letter.reason)
        old = self._groups.get(key)
        known = (letter.time, *(() if old is None else (old.oldest, old.newest)))
        times = [time for time in known if time is not None]
        newest = max(times, default=None)
        latest = old is None or (letter.time is not None and letter.time == newest)
        self._groups[key] = Group(
            queue=queue,
            task=letter.task,
            error=letter.error,
            reason=letter.reason,
            count=1 if old is None else old.count + 1,
            oldest=min(times, default=None),
            newest=newest,
            message=letter.message if latest or old is None else old.message,
            sample=letter.id if latest or old is None else old.sample,
            doubtful=(0 if old is None else old.doubtful) + (letter.doubt is not None),
        )

    def all(self) -> list[Group]:
        """The groups, by queue, the largest first."""
        return sorted(
            self._groups.values(), key=lambda g: (g.queue, -g.count, g.task or "", g.error)
        )


# ---------------------------------------------------------------- everything about one


class Arguments(msgspec.Struct, frozen=True):
    """What a task was called with, or why that is not shown: then ``hex`` is how its body begins."""

    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}
    problem: str | None = None
    hex: str | None = None


def arguments(properties: Properties | None, body: bytes) -> Arguments:
    """The arguments in a message. Only JSON and MessagePack are decoded; never raises for what a message holds."""
    try:
        if properties is None:
            raise ContentRefused("The message's properties cannot be read.")
        head = codec.read_header(properties, body, accept=SAFE)
        content = codec.read_body(head, properties, body, accept=SAFE)
    except MessageError as error:
        return Arguments(problem=str(error), hex=body[:64].hex(" "))
    return Arguments(content.args, content.kwargs)


def plain(value: object) -> Any:
    """A value of a header table or of arguments as JSON has it; bytes as hex, times as text, anything else as its repr."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)


def as_json(letter: Letter, queue: str) -> dict[str, Any]:
    """A letter as plain data, for programs."""
    fields = {name: plain(getattr(letter, name)) for name in letter.__struct_fields__}
    fields["broker"] = [plain(msgspec.structs.asdict(death)) for death in letter.broker]
    return {"queue": queue, **fields}


def exported(
    letter: Letter, queue: str, properties: Properties | None, header: bytes, body: bytes
) -> str:
    """One line of JSON from which the whole message can be made again: its bytes are base64."""
    line = as_json(letter, queue)
    line["properties"] = None
    if properties is not None:
        line["properties"] = {
            name: plain(value)
            for name, value in msgspec.structs.asdict(properties).items()
            if value is not None
        }
    line["header_base64"] = base64.b64encode(header).decode()
    line["body_base64"] = base64.b64encode(body).decode()
    return json.dumps(line, ensure_ascii=True)


# ---------------------------------------------------------------- another message from it


def changed(
    properties: Properties,
    body: bytes,
    *,
    task: str | None = None,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    headers: Iterable[tuple[str, object]] = (),
) -> tuple[Properties, bytes]:
    """A message with another task, arguments or headers; what is not given stays.

    Raises:
        MessageError: the message cannot be read, or the new one is none.
    """
    head = codec.read_header(properties, body, accept=SAFE)
    content = codec.read_body(head, properties, body, accept=SAFE)
    if head.content is not None:
        raise ContentRefused(
            "The message is of Celery's protocol 1, which is read but not written: discard it and send a new one."
        )
    table = dict(properties.headers or {})
    table.update(headers)
    if task is not None:
        table["task"] = task
    if args is not None or kwargs is not None:
        new = (
            list(content.args if args is None else args),
            dict(content.kwargs if kwargs is None else kwargs),
            content.embed,
        )
        found = serialization.choose(properties.content_type, properties.content_encoding, SAFE)
        body = serialization.dumps(
            new, found.name, subject="The changed message", roots=("args", "kwargs", "embed")
        )
        table.pop("compression", None)
        table.pop("argsrepr", None)
        table.pop("kwargsrepr", None)
    properties = msgspec.structs.replace(properties, headers=table)
    codec.read_body(codec.read_header(properties, body, accept=SAFE), properties, body, accept=SAFE)
    return properties, body
