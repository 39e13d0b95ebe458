"""Looks at chords that are due later, for parts of tasks that were acked before they ran (``acks_late=False``).

Such a task does not come again. If its process is killed when its part is in the barrier, before anybody has looked whether that was
the last one, nobody would. So before the part goes out, the broker has a message that is due in the task's own queue in some
seconds: a task of ours, acked late, that does nothing but look. One is for all parts of the chord that a process ends meanwhile.
"""

from __future__ import annotations

from amqtask.builtin import JOIN
from amqtask.call import new_id
from amqtask.core import codec
from amqtask.core.message import Message, Publication
from amqtask.core.outcome import Send
from amqtask.core.workflow import Part
from amqtask.topology.ladder import Ladder

LATER = 10.0  # seconds from its sending until a look is due
COVERS = 8.0  # seconds for which parts of the chord that end here need no other: it comes after they are in the barrier

_MOST = 10_000  # chords


class Reminders:
    """Makes the messages, and knows of which chords one is under way. One for each child; I/O thread.

    Args:
        ladder: where they wait.
        limits: sizes that a message may have.
    """

    def __init__(self, ladder: Ladder, limits: codec.Limits) -> None:
        self._ladder = ladder
        self._limits = limits
        self._sent: dict[str, float] = {}  # in the order of their times

    def covers(self, group: str, now: float) -> bool:
        """Whether a look at the chord comes after a part that goes out now."""
        return self._sent.get(group, -COVERS) + COVERS > now

    def sent(self, group: str, at: float) -> None:
        """Note that a message about a chord has been confirmed, which was sent then."""
        self._sent.pop(group, None)
        self._sent[group] = at
        oldest = next(iter(self._sent))
        if len(self._sent) > _MOST or self._sent[oldest] + COVERS < at:
            del self._sent[oldest]

    def look(self, part: Part, queue: str) -> Send:
        """A task that looks at a part's chord, due in a queue.

        Args:
            part: what is to be in the barrier by then.
            queue: the part's task's, whose workers can look.
        """
        task_id = new_id()
        message = Message(
            id=task_id,
            task=JOIN,
            root_id=part.task_id,
            parent_id=part.task_id,
            chord=stub(part.group, part.size),
            correlation_id=task_id,
            ignore_result=True,
        )
        exchange, routing_key = self._ladder.entry(LATER, queue)
        envelope = codec.encode(message, limits=self._limits)
        return Send(Publication(exchange, routing_key, envelope), queue)


def stub(group: str, size: int | None) -> dict[str, object]:
    """What a message carries of the chord it is about."""
    return {
        "task": JOIN,
        "args": [],
        "kwargs": {},
        "options": {"barrier": group},
        "subtask_type": None,
        "immutable": True,
        **({} if size is None else {"chord_size": size}),
    }
