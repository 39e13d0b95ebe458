"""Messages that are like others before them: encoded but for what changes.

Of the calls of one task nearly all differ in id, arguments and time only. The first of them is encoded by the codec as any
message is; its bytes are then cut where the id and the time stand, and the next ones are put together from the pieces. So
there is one truth about the wire, and it is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amqtask.amqp import frames
from amqtask.core import codec
from amqtask.core.message import Envelope, Message, Properties, Publication

_TIME_BYTES = 8  # of a timestamp, which comes last


class Stencil:
    """Publications of one kind. Any thread.

    Args:
        exchange: where they go.
        routing_key: with this key.
        sample: one of them, without compression, expiry, root or parent; its id and correlation id are one UUID.
        sent: seconds since the epoch, of the sample.
        limits: sizes that must not be exceeded.

    Raises:
        EncodeError, PayloadTooLarge, ConfigurationError: as ``codec.encode``, for the sample.
    """

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        sample: Message,
        sent: float,
        limits: codec.Limits,
    ) -> None:
        properties = codec.encode(sample, sent=sent, limits=limits).properties
        header = frames.encode_properties(properties)
        # in the headers, and as the correlation id; a random UUID stands nowhere else
        self._before, self._between, after = header.split(sample.id.encode())
        self._after = after[:-_TIME_BYTES]
        self._last = int(sent), after  # the latest second, and what it makes of the end
        self._properties = properties
        self._headers = dict(properties.headers or {})
        self._exchange = exchange
        self._routing_key = routing_key
        self._task = sample.task
        self._serializer = sample.serializer
        self._limits = limits

    def publication(
        self, task_id: str, args: Sequence[object], kwargs: Mapping[str, object], sent: float
    ) -> Publication:
        """The message of one call.

        Args:
            task_id: a UUID as text.
            args: positional arguments.
            kwargs: keyword arguments.
            sent: seconds since the epoch.

        Raises:
            EncodeError: an argument has no form on the wire.
            PayloadTooLarge: the body is above its limit.
        """
        body = codec.encode_arguments(self._task, args, kwargs, self._serializer, self._limits)
        raw = task_id.encode()
        second, after = self._last
        if second != int(sent):
            second = int(sent)
            after = self._after + second.to_bytes(_TIME_BYTES)
            self._last = second, after
        known = self._properties
        properties = Properties(
            content_type=known.content_type,
            content_encoding=known.content_encoding,
            headers={**self._headers, "id": task_id},
            delivery_mode=known.delivery_mode,
            priority=known.priority,
            correlation_id=task_id,
            reply_to=known.reply_to,
            timestamp=second,
        )
        return Publication(
            self._exchange,
            self._routing_key,
            Envelope(body, properties),
            True,
            b"".join((self._before, raw, self._between, raw, after)),
        )
