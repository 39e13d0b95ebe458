"""A message as a dead letter: itself, with headers that say why it is there; and the way back."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from amqtask.core.codec import is_broker_header, moment
from amqtask.core.message import Envelope, Headers, Properties, Publication
from amqtask.core.verdicts import Standing

PREFIX = "amqtask-dead-"
ROUNDS = f"{PREFIX}rounds"  # how often it has been sent back to work
SENT_BACK = f"{PREFIX}sent-back"  # when it was last sent back, ISO 8601
DOUBT = f"{PREFIX}doubt"  # why it may have been sent back twice
CRASHES = f"{PREFIX}crashes"  # of processes that ran it, in all its lives so far
KNOWN = (
    f"{PREFIX}known"  # of what was said against it up to then, the newest: seconds since the epoch
)
FIRST_TIME = f"{PREFIX}first-time"
FIRST_ATTEMPT = "amqtask-first-time"  # since when a task is retried: begins anew with its next life
AGAIN = "amqtask-again"  # that its sender may have sent it before: its next life begins with none of that
TRACE = frozenset(
    {ROUNDS, SENT_BACK, FIRST_TIME, CRASHES, KNOWN}
)  # what a message keeps when it is sent back
TRACEBACK_CHARACTERS = 8000  # all headers must fit one frame with room for the broker's own


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Why a message is dead. Times are ISO 8601; ``attempts`` counts starts, this one included.

    ``first_time`` is when the first attempt began, ``None`` when this was the first. ``standing``
    is what is known against its id, of all its lives; ``None`` when nobody looked.
    """

    reason: str
    exception: str
    message: str
    traceback: str | None
    queue: str
    node: str
    attempts: int
    time: str
    first_time: str | None = None
    standing: Standing | None = None


def letter(
    body: bytes, properties: Properties, death: Death, target: tuple[str, str]
) -> Publication:
    """The publication that puts a message among the dead letters of its queue.

    Kept: body, content type, ids, priority, reply address, the sender's headers and the time of a first death. Left out:
    ``expiration`` (it would expire there too), ``user_id`` (the broker refuses another user's) and the broker's own ``x-``
    headers (they grow with each round).

    Args:
        body: as received.
        properties: as received.
        death: why it is dead.
        target: exchange and routing key of the dead-letter queue.
    """
    headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if not is_broker_header(name)
    }
    headers.update(
        {
            f"{PREFIX}reason": death.reason,
            f"{PREFIX}exception": death.exception,
            f"{PREFIX}message": death.message[:1000],
            f"{PREFIX}queue": death.queue,
            f"{PREFIX}node": death.node,
            f"{PREFIX}attempts": death.attempts,
            f"{PREFIX}time": death.time,
        }
    )
    headers.pop(DOUBT, None)
    headers.setdefault(FIRST_TIME, death.first_time or death.time)
    if death.standing is not None:
        headers[CRASHES] = death.standing.crashes
        if said := _said(death.standing):
            headers[KNOWN] = said
    if death.traceback:
        headers[f"{PREFIX}traceback"] = death.traceback[-TRACEBACK_CHARACTERS:]
    return Publication(
        target[0],
        target[1],
        Envelope(
            body,
            msgspec.structs.replace(
                properties, headers=headers, expiration=None, user_id=None, delivery_mode=2
            ),
        ),
    )


def revive(properties: Properties, now: datetime, *, keep_expires: bool = False) -> Properties:
    """The properties with which a dead letter goes back to work, as if it had never been tried.

    ``retries`` is 0 again. What told of its death is removed, but for the time of the first one, how often it has been sent
    back, and when; limits on its attempts count anew. A time of expiry that is past is removed, or it would die at once; one to come is kept.

    Args:
        properties: as read from the dead letters.
        now: the current time, aware.
        keep_expires: keep ``expires`` even when it is past.
    """
    before = properties.headers or {}
    headers = {
        name: value
        for name, value in before.items()
        if not is_broker_header(name) and (not name.startswith(PREFIX) or name in TRACE)
    }
    if f"{PREFIX}reason" not in before:
        headers.pop(CRASHES, None)  # the broker made this letter, and does not count them
    if headers.get("retries"):
        headers["retries"] = 0
    if not keep_expires and _is_past(headers.get("expires"), now):
        headers["expires"] = None
    headers.pop(FIRST_ATTEMPT, None)
    headers.pop(AGAIN, None)
    headers[ROUNDS] = rounds(before) + 1
    headers[SENT_BACK] = now.isoformat()
    # A worker tells this life of the message from those that ended by the timestamp, of which two may be in one second.
    before_this = properties.timestamp or 0
    return msgspec.structs.replace(
        properties,
        headers=headers,
        user_id=None,
        delivery_mode=2,
        timestamp=max(int(now.timestamp()), before_this + 1 if before_this < 1 << 40 else 0),
    )


def doubtful(properties: Properties, why: str) -> Properties:
    """The properties of a message that is sent although it may have been sent before."""
    headers = {k: v for k, v in (properties.headers or {}).items() if not is_broker_header(k)}
    return msgspec.structs.replace(
        properties, headers={**headers, DOUBT: why}, user_id=None, delivery_mode=2
    )


def rounds(headers: Headers) -> int:
    """How often a message has been sent back from the dead letters."""
    found = headers.get(ROUNDS)
    return found if isinstance(found, int) else 0


def sent_back(headers: Headers) -> datetime | None:
    """When a message was last sent back from the dead letters."""
    found = headers.get(SENT_BACK)
    if not isinstance(found, str):
        return None
    try:
        return datetime.fromtimestamp(moment(found), UTC)
    except (ValueError, OverflowError):
        return None


def of_this_life(standing: Standing | None, headers: Headers | None) -> Standing | None:
    """What holds for a message of all that is known of its id: nothing from before it was sent back from the dead letters.

    A message that was never sent back has one life. Of one that was, what was known then does not count: that it was revoked
    or aborted, that it met its time limit, and how often it had crashed. Each is looked at by itself: a crash of this life
    brings no verdict of a former one back. What the letter tells was known when it was written needs no clock; what came
    after that is told by its time.

    Args:
        standing: of its id.
        headers: the message's.
    """
    if standing is None or not headers or SENT_BACK not in headers:
        return standing
    sent = sent_back(headers)
    if sent is None:
        return standing
    known = headers.get(KNOWN)
    since = max(sent.timestamp(), known if isinstance(known, float) else 0.0)
    before = headers.get(CRASHES)
    if isinstance(before, int) and before <= standing.crashes:
        crashes = standing.crashes - before
    else:  # it does not tell, or some of those have been forgotten
        crashes = sum(time > sent.timestamp() for time in standing.recent)
    revoked, aborted, hard_limit = (
        time if time > since else 0.0
        for time in (standing.revoked, standing.aborted, standing.hard_limit)
    )
    if not (revoked or aborted or hard_limit or crashes):
        return None
    return msgspec.structs.replace(
        standing, revoked=revoked, aborted=aborted, hard_limit=hard_limit, crashes=crashes
    )


def _said(standing: Standing) -> float:
    return max(standing.revoked, standing.aborted, standing.hard_limit)


def _is_past(expires: object, now: datetime) -> bool:
    if not isinstance(expires, str):
        return False
    try:
        return moment(expires) <= now.timestamp()
    except ValueError:
        return False
