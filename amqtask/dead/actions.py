"""What can be done about a dead letter: send it back to work, send a changed one instead, delete it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from amqtask.amqp import frames
from amqtask.amqp.transfer import Raw
from amqtask.core import dead, letters
from amqtask.core.message import Envelope, Publication
from amqtask.dead.look import Found

LARGEST_HEADER = 128 * 1024 - 1024  # bytes; more does not fit the frame that RabbitMQ takes


class Retry(msgspec.Struct, frozen=True):
    """Send letters back to work: to the queue each died in, or all to ``queue``."""

    queue: str | None = None
    keep_expires: bool = False

    def __call__(self, found: Found) -> Publication | Raw | None:
        """The publication that does it; ``None`` when it is not told where the letter came from."""
        target = self.queue or found.letter.source
        if not target:
            return None
        if found.properties is None:
            return Raw("", target, found.delivery.header, found.delivery.body)
        properties = dead.revive(
            found.properties, datetime.now(UTC), keep_expires=self.keep_expires
        )
        if len(frames.encode_properties(properties)) > LARGEST_HEADER:
            return Raw("", target, found.delivery.header, found.delivery.body)
        return Publication("", target, Envelope(found.delivery.body, properties))


class Discard(msgspec.Struct, frozen=True):
    """Delete letters for good. ``before`` is called with each batch before it is deleted: an export, made safe."""

    before: Callable[[Sequence[Found]], None] | None = None

    def __call__(self, found: Found) -> None:
        """There is no publication."""


class Replace(msgspec.Struct, frozen=True):
    """Send one changed letter back to work, if it is still the one that was changed."""

    original: str
    publication: Publication

    def __call__(self, found: Found) -> Publication | None:
        """The changed message."""
        same = found.properties is not None and (
            letters.fingerprint(found.properties, found.delivery.body) == self.original
        )
        return self.publication if same else None


Action = Retry | Discard | Replace
