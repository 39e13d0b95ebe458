"""Marks what is published by a run whose message came before: it may be there already. Pure.

A task is delivered again when its process died before its ack, and it then starts what follows it once more, under the same ids. Where
that is what killed the process, the next copy must not be tried as if it were new, or the two would bring each other back for ever.
"""

from __future__ import annotations

import msgspec

from amqtask.core.dead import AGAIN
from amqtask.core.message import Headers, Publication
from amqtask.core.outcome import Send, Sequel


def repeat(publication: Publication) -> Publication:
    """The publication of something that may have been published before."""
    properties = publication.envelope.properties
    marked = msgspec.structs.replace(properties, headers={**(properties.headers or {}), AGAIN: 1})
    envelope = msgspec.structs.replace(publication.envelope, properties=marked)
    return msgspec.structs.replace(publication, envelope=envelope)


def repeated(sequel: Sequel) -> Sequel:
    """What follows a run that may have published it before; only what starts something is marked."""
    sends = tuple(
        Send(repeat(each.publication), each.due_in, each.started) for each in sequel.sends
    )
    return msgspec.structs.replace(sequel, sends=sends)


def may_be_repeat(headers: Headers | None) -> bool:
    """Whether a message may be a second copy of one that was sent before."""
    return bool(headers and AGAIN in headers)
