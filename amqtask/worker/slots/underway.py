"""A run in its slot: what its function is called with, and what the task may know of itself.

Most tasks never ask for ``self.request``, and it is some thirty values: they are put together for those that do.
"""

from __future__ import annotations

from typing import Any, final

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.core.codec import Head
from amqtask.core.onward import FIRST_TIME, KOMBU, senders_own
from amqtask.request import Asked, DeliveryInfo, Request
from amqtask.worker.slots.carry import Carrier


@final
class Underway(msgspec.Struct, eq=False):
    """One run. Implements ``amqtask.request.Told``. Give arguments by their order: every task needs one.

    Attributes:
        delivery, head: the message.
        args, kwargs: what the function is called with.
        started: when, on the monotonic clock.
        wants_result: somebody waits for the task's result.
        carrier: knows by which way a message came.
        node: the name of this one.
        made: the request, once it was asked for.
        asked: what the task has asked for: that of the request.
    """

    delivery: Delivery
    head: Head
    args: Any
    kwargs: Any
    started: float
    wants_result: bool
    carrier: Carrier
    node: str
    made: Request | None = None
    # Apart from the request: two threads of a task that ask at the same time may each make one.
    asked: Asked = msgspec.field(default_factory=Asked)

    @property
    def request(self) -> Request:
        """What the task may know of itself. Any thread."""
        made = self.made
        if made is None:
            made = self.made = self._request()
        return made

    def _request(self) -> Request:
        delivery, head = self.delivery, self.head
        headers = head.headers
        first_time: object = None
        exchange, routing_key = delivery.names
        if headers or exchange.startswith(
            KOMBU
        ):  # else nothing says that it went another way first
            exchange, routing_key = self.carrier.came_by(delivery)
            first_time = headers.get(FIRST_TIME)
            headers = senders_own(headers)
        return Request(
            id=head.id,
            task=head.task,
            root_id=head.root_id,
            parent_id=head.parent_id,
            group=head.group,
            group_index=head.group_index,
            retries=head.retries,
            eta=head.eta,
            expires=head.expires,
            timelimit=(head.time_limit, head.soft_time_limit),
            reply_to=head.reply_to,
            correlation_id=head.correlation_id,
            delivery_info=DeliveryInfo(
                exchange, routing_key, head.priority, delivery.redelivered, delivery.queue
            ),
            hostname=self.node,
            origin=head.origin,
            args=self.args,
            kwargs=self.kwargs,
            headers=headers,
            shadow=head.shadow,
            called_directly=False,
            ignore_result=not self.wants_result,
            first_time=first_time if isinstance(first_time, str) else None,
            started=self.started,
            asked=self.asked,
        )
