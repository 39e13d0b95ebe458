"""A message on its way to a later delivery: itself, with the headers that change.

A message that is sent for later, one that came before its time and the next attempt of a retried task are made here: the body is taken over byte for
byte, and so is every property and header that says what the task is, who sent it and who waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from amqtask.core import dead
from amqtask.core.codec import is_broker_header
from amqtask.core.message import Envelope, Headers, Properties, Publication

PREFIX = "amqtask-"  # of every header that is neither the task protocol's nor the sender's
FIRST_TIME = dead.FIRST_ATTEMPT  # ISO 8601: when the first attempt began
EXCHANGE = f"{PREFIX}exchange"  # where the message was published before it went through the ladder
ROUTING_KEY = f"{PREFIX}routing-key"

# kombu's delay queues, which Celery uses for countdown and eta: their key is 28 bits and the key the producer gave.
KOMBU = "celery_delayed_"  # how the names of its exchanges begin
_MORE_KEYS = frozenset({"CC", "BCC"})
_KOMBU_BITS = re.compile(r"(?:[01]\.){28}")


def onward(
    body: bytes,
    properties: Properties,
    entry: tuple[str, str],
    *,
    published: tuple[str, str],
    changes: Headers | None = None,
) -> Publication:
    """The publication that carries a received message on.

    Left out: ``expiration`` (on the ladder a message that expires is not dropped but comes early; the ``expires`` header
    says the same to the worker), ``user_id`` (the broker refuses another user's), the broker's own ``x-`` headers (sent
    again they would be taken for a cycle), what a dead letter says of its death, and ``CC`` and ``BCC`` (further routing keys,
    which the ladder's exchanges would follow).

    Args:
        body: as received, or written anew.
        properties: as received.
        entry: exchange and routing key of the ladder, or of the queue itself.
        published: exchange and routing key of the delivery. They are kept in headers, for ``address``.
        changes: headers that become different; ``None`` takes one away.
    """
    old = properties.headers or {}
    headers = {
        name: value
        for name, value in old.items()
        if not is_broker_header(name)
        and (not name.startswith(dead.PREFIX) or name in dead.TRACE)
        and name not in _MORE_KEYS
    }
    headers[EXCHANGE], headers[ROUTING_KEY] = address(old, *published)
    for name, value in (changes or {}).items():
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value
    return Publication(
        entry[0],
        entry[1],
        Envelope(
            body,
            msgspec.structs.replace(
                properties,
                headers=headers,
                expiration=None,
                user_id=None,
                delivery_mode=2,
                priority=properties.priority or 0,
            ),
        ),
    )


def address(headers: Headers, exchange: str, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key that a message was published with, before any passage through the ladder, or kombu's.

    Args:
        headers: the message's, as received.
        exchange: of the delivery.
        routing_key: of the delivery.
    """
    if headers:
        first = headers.get(EXCHANGE), headers.get(ROUTING_KEY)
        if type(first[0]) is str and type(first[1]) is str:
            return first[0], first[1]
    if exchange.startswith(KOMBU):
        return "", _KOMBU_BITS.sub("", routing_key, count=1)
    return exchange, routing_key


def senders_own(headers: Headers) -> Mapping[str, object]:
    """Without the headers that amqtask adds on the way: what the sender gave."""
    if not headers:
        return headers
    return {name: value for name, value in headers.items() if not name.startswith(PREFIX)}
