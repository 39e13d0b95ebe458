"""The barrier of a chord: what the messages in its queue say, and what they amount to.

The queue of a chord holds a plan (how many parts there are, and what follows), then the parts as they end, and sometimes the
word that there is one part more. Their headers alone tell when the chord is complete, so that bodies are read once, by
whoever concludes it. Nothing here talks to a broker or keeps time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Container, Mapping, Sequence

import msgspec

from amqtask.core import codec, serialization
from amqtask.core.message import Envelope, Headers, Properties, Publication
from amqtask.core.result import (
    FAILURE,
    SUCCESS,
    Record,
    decode_result,
    encode_result,
    exception_to_wire,
)
from amqtask.core.workflow import Barrier, More, Part
from amqtask.errors import AmqtaskError, ChordError, DecodeError, PayloadTooLarge

PREFIX = "amqtask.join."
"""Begins the name of every barrier's queue; the group's id follows."""

PLAN = "amqtask-plan"  # header of the plan: how many parts
PART = "amqtask-part"  # header of a part: its index
DELAY = "amqtask-delay"  # header of the plan: seconds for which parts are put off, if they are
STATE = "amqtask-state"  # header of a part: how it ended
MORE = "amqtask-more"  # header of the word of one part more: that part's task id
COPY = "CC"  # header of RabbitMQ's: keys under which it publishes a message, too
DONE = "amqtask-done"  # header of the word that what follows the chord has been published

ADDED = -1
"""The index of a part that was added while the chord ran: it is known by its task id, and its result comes last."""

NAMED = 10  # parts that an error names

AROUND = 1024  # bytes that a result record takes at most, about, beside the value in it


def queue_name(group: str) -> str:
    """The name of the queue in which the parts of a chord gather."""
    return PREFIX + group


# ---------------------------------------------------------------- messages out


class Deadline(msgspec.Struct, frozen=True):
    """Until when a chord must have ended: then the broker drops its plan, and whoever gets that tells that the chord has failed.

    Attributes:
        seconds: from the plan's publishing, beside those for which the parts are put off.
        key: the routing key under which the broker publishes the plan then.
    """

    seconds: float
    key: str


def plan_message(
    barrier: Barrier, deadline: Deadline | None = None, *, limits: codec.Limits = codec.LIMITS
) -> Publication:
    """The first message in a barrier's queue: to be confirmed before any part is started.

    Args:
        barrier: what it says.
        deadline: when the chord must have ended; ``None`` is never.
        limits: sizes that a message may have.

    Raises:
        EncodeError: something in the plan has no form in JSON.
        PayloadTooLarge: what follows the chord is above ``message_max_bytes``.
    """
    body = serialization.dumps(barrier.plan, "json", subject=f"The body of chord {barrier.group}")
    if len(body) > limits.message_max_bytes:
        raise PayloadTooLarge(
            f"What follows chord {barrier.group} is {len(body)} bytes, above message_max_bytes "
            f"({limits.message_max_bytes}); pass references to the data instead of the data."
        )
    headers: dict[str, object] = {PLAN: barrier.size}
    delay = math.ceil(barrier.delay) if barrier.delay > 0 else 0
    if delay:
        headers[DELAY] = delay
    if deadline is None:
        return _message(barrier.group, body, headers)
    milliseconds = min(int((deadline.seconds + delay) * 1000), codec.LONGEST_EXPIRATION)
    headers[COPY] = [deadline.key]  # where it is published, and where the broker drops it
    return _message(barrier.group, body, headers, str(max(1, milliseconds)))


def delay_of(publication: Publication) -> int:
    """The seconds for which the parts of the chord are put off whose plan this is."""
    delay = (publication.envelope.properties.headers or {}).get(DELAY)
    return delay if type(delay) is int else 0


def part_message(
    part: Part, serializer: str = "json", *, limits: codec.Limits = codec.LIMITS
) -> Publication:
    """The end of a part, for its barrier's queue: a result record as it goes to reply queues, too.

    Raises:
        EncodeError: the return value has no form in this serializer.
        PayloadTooLarge: the record is above ``message_max_bytes``.
    """
    record = Record(
        task_id=part.task_id,
        status=part.state,
        result=part.result,
        traceback=part.traceback,
        group_id=part.group,
    )
    envelope = encode_result(record, serializer, limits=limits)
    properties = msgspec.structs.replace(
        envelope.properties, headers={PART: part.index, STATE: part.state}
    )
    return Publication("", queue_name(part.group), Envelope(envelope.body, properties))


def more_message(more: More) -> Publication:
    """The word that a chord has one part more; to be confirmed before that part is started."""
    return _message(more.group, b"{}", {MORE: more.task_id})


def done_message(group: str, outer: Sequence[Part] = ()) -> Publication:
    """The word that what follows the chord has been published, in the same transaction.

    It is not kept by a broker that restarts: only one that lives on has surely published the rest of that transaction, too.

    Args:
        group: the chord.
        outer: the parts of other chords among what follows, whose barriers are still to be looked at.
    """
    looks = [(part.group, part.index, part.size, part.task_id, part.state) for part in outer]
    done = _message(group, msgspec.json.encode(looks), {DONE: 1})
    envelope = done.envelope
    properties = msgspec.structs.replace(envelope.properties, delivery_mode=1)
    return Publication("", done.routing_key, Envelope(envelope.body, properties), mandatory=False)


def _message(
    group: str, body: bytes, headers: Headers, expiration: str | None = None
) -> Publication:
    return Publication(
        "",
        queue_name(group),
        Envelope(
            body,
            Properties(
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=2,
                priority=0,
                correlation_id=group[:255],
                headers=headers,
                expiration=expiration,
            ),
        ),
    )


# ---------------------------------------------------------------- messages in


class Kind(enum.Enum):
    """What a message in a barrier's queue is."""

    PLAN = "plan"
    PART = "part"
    MORE = "more"
    DONE = "done"
    OTHER = "other"


Key = int | str
"""A part: its index, or the task id of one that was added."""


class Note(msgspec.Struct, frozen=True):
    """A message in a barrier's queue by its headers. ``size`` is a plan's, ``key`` a part's."""

    kind: Kind
    size: int = 0
    key: Key = 0
    ok: bool = True


_OTHER = Note(Kind.OTHER)
_Look = tuple[str, int, int | None, str, str]  # group, index, size, task id, state


def read_note(properties: Properties) -> Note:
    """Read the headers of a message. What says nothing that is understood is ``OTHER``. Never raises."""
    try:
        headers = properties.headers or {}
    except DecodeError:
        return _OTHER
    size = headers.get(PLAN)
    if type(size) is int:
        return Note(Kind.PLAN, size=size)
    index = headers.get(PART)
    if type(index) is int:
        key: Key | None = index if index >= 0 else properties.correlation_id
        if key is None:
            return _OTHER
        return Note(Kind.PART, key=key, ok=headers.get(STATE) == SUCCESS)
    more = headers.get(MORE)
    if isinstance(more, str) and more:
        return Note(Kind.MORE, key=more)
    if DONE in headers:
        return Note(Kind.DONE)
    return _OTHER


class Complete(msgspec.Struct, frozen=True):
    """All parts have succeeded; ``results`` by index, those of added parts last."""

    group: str
    plan: Mapping[str, object]
    results: tuple[object, ...]


class Broken(msgspec.Struct, frozen=True):
    """A part has failed, and so has the chord."""

    group: str
    plan: Mapping[str, object]
    part: Part


class Unable(msgspec.Struct, frozen=True):
    """The body of a complete chord cannot be started."""

    group: str
    plan: Mapping[str, object]
    error: Exception


Ending = Complete | Broken | Unable


class Late(msgspec.Struct, frozen=True):
    """The plan of a chord that has not ended in time, which the broker has taken out of the barrier.

    Attributes:
        group: the chord.
        size: how many parts it has.
        body: the plan, as its message has it.
    """

    group: str
    size: int
    body: bytes

    @property
    def ending(self) -> Unable | None:
        """What has become of the chord when nothing of its barrier is left; ``None`` if the plan cannot be read."""
        plan = _read_plan(self.body)
        if plan is None:
            return None
        error = _out_of_time(self.group, "some of its parts have neither succeeded nor failed")
        return Unable(self.group, plan, error)


def late(properties: Properties, body: bytes) -> Late | None:
    """The plan that the broker dropped because its chord had not ended in time; ``None`` of any other message. Never raises."""
    note = read_note(properties)
    if note.kind is not Kind.PLAN or not properties.correlation_id or _read_plan(body) is None:
        return None
    return Late(properties.correlation_id, note.size, body)


def _out_of_time(group: str, why: str) -> ChordError:
    return ChordError(
        f"Chord {group} did not end in the time that result_chord_expires gives it: {why}."
    )


def _read_plan(body: bytes) -> Mapping[str, object] | None:
    try:
        plan = serialization.loads(body, "application/json", "utf-8", codec.ACCEPT)
    except AmqtaskError:
        return None
    return plan if isinstance(plan, dict) else None


class State(enum.Enum):
    """What the messages that a tally has seen amount to."""

    INCOMPLETE = "incomplete"
    COMPLETE = "complete"
    FAILED = "failed"  # some part has; a success of the same part may still come
    NO_PLAN = "no plan"
    LATE = "late"  # incomplete, and its time is over
    DONE = "done"  # what follows has been published: only the queue is left


class Tally:
    """Counts what a barrier's queue holds, message by message. Keeps one body for each part.

    A part that is there twice counts once, and a success beats a failure: a part that was given up and then did end well, or
    one that ran again. The tags of what counts for nothing are ``spare``. Once the bodies are more than the body of the chord could
    ever carry, they are let go of, and the chord cannot be completed.

    Args:
        group: the chord.
        limits: ``message_max_bytes`` bounds what is kept, but for what a record has around its value.
    """

    def __init__(self, group: str, limits: codec.Limits = codec.LIMITS) -> None:
        self._limits = limits
        self._bytes = 0
        self._too_large = False
        self.group = group
        self.spare: list[int] = []
        self.held = 0  # messages seen
        self._size = -1
        self._plan: bytes | None = None
        self._done: bytes | None = None
        self._late = False
        self._added: dict[str, int] = {}  # task id → tag of the word of it
        self._parts: dict[Key, tuple[int, Properties, bytes]] = {}
        self._failed: dict[Key, None] = {}

    def expire(self, late: Late) -> None:
        """Note that the time of the chord is over, and that this is its plan: it is in the queue no more."""
        self._late, self._size, self._plan = True, late.size, late.body

    def add(self, tag: int, properties: Properties, body: bytes) -> Note:
        """Count a message in; what it is."""
        note = read_note(properties)
        self.held += 1
        match note.kind:
            case Kind.PLAN:
                if self._plan is None:
                    self._size, self._plan = note.size, body
                else:
                    self.spare.append(tag)
            case Kind.MORE:
                if str(note.key) in self._added:
                    self.spare.append(tag)
                else:
                    self._added[str(note.key)] = tag
            case Kind.PART:
                self._add_part(note, tag, properties, body)
            case Kind.DONE:
                self._done = body
            case _:
                self.spare.append(tag)
        return note

    def _add_part(self, note: Note, tag: int, properties: Properties, body: bytes) -> None:
        key = note.key
        before = self._parts.get(key)
        if before is not None and (not note.ok or key not in self._failed):
            self.spare.append(tag)
            return
        if before is not None:
            self.spare.append(before[0])
            del self._failed[key]
        if not note.ok:
            self._failed[key] = None
        self._bytes += max(0, len(body) - AROUND)
        if self._bytes > self._limits.message_max_bytes and not self._too_large:
            self._too_large = True
            for each, (kept, its, _) in self._parts.items():
                if each not in self._failed:
                    self._parts[each] = (kept, its, b"")
        if self._too_large and note.ok:
            body = b""
        self._parts[key] = (tag, properties, body)

    @property
    def state(self) -> State:
        """What the messages amount to."""
        if self._done is not None:
            return State.DONE
        if self._plan is None:
            return State.NO_PLAN
        if self._failed:
            return State.FAILED
        wanted = self._size + len(self._added)
        # enough of them, and the right ones
        if len(self._parts) >= wanted and sum(map(self._expects, self._parts)) >= wanted:
            return State.COMPLETE
        return State.LATE if self._late else State.INCOMPLETE

    def _expects(self, key: Key) -> bool:
        return key in self._added if isinstance(key, str) else key < self._size

    @property
    def messages(self) -> int:
        """How many messages there are when each part is there once; 0 without a plan."""
        return 0 if self._plan is None else 1 + self._size + 2 * len(self._added)

    @property
    def outer(self) -> tuple[Part, ...]:
        """Where a chord has been concluded: the parts of other chords that came of it, without their results."""
        try:
            looks = msgspec.json.decode(self._done or b"[]", type=list[_Look])
        except msgspec.MsgspecError:
            return ()
        return tuple(
            Part(group=group, index=index, size=size, task_id=task_id, state=state)
            for group, index, size, task_id, state in looks
        )

    def conclude(self, accept: Container[str] = codec.ACCEPT) -> Ending | None:
        """What the chord has come to, in a state that ends it; ``None`` when its plan cannot be read. Consumes the tally.

        Bodies are let go of as they are read, so that values and bytes are not there together.

        Args:
            accept: names or mime types of the serializers that may be read.
        """
        assert self._plan is not None
        plan = _read_plan(self._plan)
        if plan is None:
            return None
        self._plan = None
        parts = self._parts
        if self._failed:
            first = min(self._failed, key=_order)
            _, properties, body = parts[first]
            parts.clear()
            return Broken(self.group, plan, self._part(first, properties, body, accept))
        if late := self._overdue():
            parts.clear()
            return Unable(self.group, plan, late)
        if self._too_large:
            error = PayloadTooLarge(
                f"The results of the {len(parts)} parts of chord {self.group} are above message_max_bytes "
                f"({self._limits.message_max_bytes}) together, and its body takes them in one message; "
                "store the data elsewhere and return references to it."
            )
            parts.clear()
            return Unable(self.group, plan, error)
        results = []
        for key in (*range(self._size), *self._added):
            _, properties, body = parts.pop(key)
            part = self._part(key, properties, body, accept)
            if part.state != SUCCESS:
                parts.clear()
                return Broken(self.group, plan, part)
            results.append(part.result)
        return Complete(self.group, plan, tuple(results))

    def _overdue(self) -> ChordError | None:
        """Why a chord whose time is over has failed; ``None`` when all of its parts are there."""
        missing = [key for key in (*range(self._size), *self._added) if key not in self._parts]
        if not self._late or not missing:
            return None
        wanted = self._size + len(self._added)
        return _out_of_time(
            self.group,
            f"of its {wanted} part{'s' * (wanted != 1)}, counted from 0, {_named(missing)} neither succeeded nor failed",
        )

    def _part(
        self,
        key: Key,
        properties: Properties,
        body: bytes,
        accept: Container[str],
    ) -> Part:
        index = key if isinstance(key, int) else ADDED
        try:
            record = decode_result(properties, body, accept=accept, limits=self._limits)
        except AmqtaskError as error:
            task_id = properties.correlation_id or ""
            return Part(
                group=self.group,
                index=index,
                size=self._size,
                task_id=task_id,
                state=FAILURE,
                result=exception_to_wire(error),
            )
        return Part(
            group=self.group,
            index=index,
            size=self._size,
            task_id=record.task_id,
            state=record.status,
            result=record.result,
            traceback=record.traceback,
        )


def _named(missing: Sequence[Key]) -> str:
    """Which parts have not come."""
    names = [f"task {key}" if isinstance(key, str) else str(key) for key in missing[:NAMED]]
    if more := len(missing) - len(names):
        names.append(f"{more} more")
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{listed} {'has' if len(missing) == 1 else 'have'}"


def _order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
