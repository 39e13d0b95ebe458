"""The delay ladder: where a message waits in the broker until it is due.

Twenty-eight steps, each a topic exchange and a quorum queue of one name; step n holds a message for 2^n times 100 ms and then
dead-letters it to the next lower exchange. A routing key says which steps hold a message: 28 bits, highest first, and the
target queue as one word. A message enters at its highest set bit, so it passes only the steps below that. Below step 0
stands the delivery exchange, to which every target queue is bound with its word; what has no queue there any more goes to a
queue of its own through an alternate exchange, because a few unroutable messages would otherwise hold up all the others.

The shape is NServiceBus's; the steps are quorum queues that dead-letter at least once, because a broker that is killed while
messages expire loses them in any other kind of queue.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePath
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from amqtask.topology.plan import (
    BindExchange,
    BindQueue,
    Declaration,
    DeclareExchange,
    DeclareQueue,
)

STEPS = 28
TICK = 0.1  # seconds a message is held at step 0
LONGEST = (2**STEPS - 1) * TICK  # seconds; what waits longer goes round again

_HASHED = re.compile("%[0-9a-f]{64}")
_WORD_BYTES = 255 - 2 * STEPS  # a routing key has at most 255 bytes
PREFIX_LENGTH = 100  # characters, which leaves room for the rest of a name
PREFIX_PATTERN = "[A-Za-z0-9_][A-Za-z0-9_.-]*"


class Entry(NamedTuple):
    """Where a message enters the ladder."""

    exchange: str
    routing_key: str


class Ladder(msgspec.Struct, frozen=True):
    """The ladder of one application. ``prefix`` keeps it apart from other applications' in the virtual host.

    An empty prefix is the ladder of a topology that nobody gave a name.
    """

    prefix: str = ""

    @property
    def _stem(self) -> str:
        return f"amqtask.{self.prefix}.delay" if self.prefix else "amqtask.delay"

    def step(self, number: int) -> str:
        """The name of a step's exchange and queue."""
        return f"{self._stem}.{number:02d}"

    @property
    def delivery(self) -> str:
        """The exchange that hands a message that is due to its queue."""
        return f"{self._stem}.deliver"

    @property
    def unroutable(self) -> str:
        """The exchange and the queue that take messages whose queue is gone when they are due."""
        return f"{self._stem}.unroutable"

    def __str__(self) -> str:
        return f"delay ladder {self.step(0)} … {STEPS - 1}"

    def entry(self, delay: float, queue: str) -> Entry:
        """Where a message enters that is due in a queue in ``delay`` seconds: never early, at most 0.1 s late.

        A delay beyond ``LONGEST`` enters at the top; the message is early when it comes out and goes round again.
        """
        ticks = min(max(1, math.ceil(delay / TICK - 1e-6)), 2**STEPS - 1)
        return self._at(ticks, word(queue))

    def sooner(self, routing_key: str, ticks: int) -> Entry:
        """Where a message enters that has waited for so many ticks before the broker had it.

        Args:
            routing_key: of its entry.
            ticks: whole ones, so that it is not early for that.
        """
        held = int(routing_key[: 2 * STEPS].replace(".", ""), 2)
        return self._at(max(1, held - ticks), routing_key[2 * STEPS :])

    def _at(self, ticks: int, target: str) -> Entry:
        bits = ".".join(f"{ticks:0{STEPS}b}")
        return Entry(self.step(ticks.bit_length() - 1), f"{bits}.{target}")

    def target(self, queue: str) -> BindQueue:
        """The binding a queue needs to be given what is due in it."""
        return BindQueue(queue, self.delivery, ".".join((*("*" * STEPS), word(queue))))

    def declarations(self) -> tuple[Declaration, ...]:
        """All of the ladder but the bindings of target queues, in an order the broker accepts."""
        exchanges: list[Declaration] = [
            DeclareExchange(self.unroutable, "fanout"),
            DeclareExchange(
                self.delivery, "topic", arguments={"alternate-exchange": self.unroutable}
            ),
            DeclareQueue(self.unroutable, arguments={"x-queue-type": "quorum"}),
            BindQueue(self.unroutable, self.unroutable),
        ]
        queues: list[Declaration] = []
        bindings: list[Declaration] = []
        for number in range(STEPS):
            name = self.step(number)
            below = self.step(number - 1) if number else self.delivery
            above = ["*"] * (STEPS - 1 - number)
            exchanges.append(DeclareExchange(name, "topic"))
            queues.append(
                DeclareQueue(
                    name,
                    arguments={
                        "x-queue-type": "quorum",
                        "x-message-ttl": round(2**number * TICK * 1000),
                        "x-dead-letter-exchange": below,
                        "x-dead-letter-strategy": "at-least-once",
                        "x-overflow": "reject-publish",
                    },
                )
            )
            bindings.append(BindQueue(name, name, ".".join((*above, "1", "#"))))
            bindings.append(BindExchange(below, name, ".".join((*above, "0", "#"))))
        return (*exchanges, *queues, *bindings)


def word(queue: str) -> str:
    """A queue's name as one word of a routing key: without dots, and short enough; different for different names."""
    text = queue.replace("%", "%25").replace(".", "%2E")
    text = text.replace("*", "%2A").replace("#", "%23")
    if len(text.encode()) <= _WORD_BYTES:
        return text
    import hashlib  # it loads OpenSSL, which takes longer than most of what else ``import amqtask`` does

    return "%" + hashlib.sha256(queue.encode()).hexdigest()


def holds_unroutable(queue: str) -> bool:
    """Whether a queue is, by its name, a ladder's queue of messages that found no queue when they were due."""
    return queue.startswith("amqtask.") and queue.endswith(".delay.unroutable")


def queue_of(routing_key: str) -> str | None:
    """The queue that a message in a ladder is for; ``None`` where its name was too long for the routing key."""
    found = routing_key[2 * STEPS :]
    return None if _HASHED.fullmatch(found) else unquote(found) or None


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a prefix, or ``None``."""
    if re.fullmatch(PREFIX_PATTERN, prefix) is None:
        return "a prefix is made of letters, digits, '_', '-' and '.', and begins with none of the last two"
    if len(prefix) > PREFIX_LENGTH:
        return f"a prefix has at most {PREFIX_LENGTH} characters"
    return None


def prefix_of(name: str) -> str:
    """A prefix made of any name, such as an app's: what a prefix cannot hold becomes ``-``."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("-.")[:PREFIX_LENGTH]
    return cleaned.rstrip("-.") or "app"


def prefix_of_file(path: str) -> str:
    """The prefix of a topology file that gives none: its name without the suffix."""
    return prefix_of(PurePath(path).stem)
