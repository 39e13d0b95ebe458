"""The garbage collector of a process that runs many tasks at a time.

It looks through the young objects whenever a few hundred more have been made than freed, which tells garbage from what a
program keeps as long as it does one thing at a time. A thousand tasks under way are tens of thousands of objects that will all
be freed without it: by the rule it would look through each of them several times, for a fifth of all processor time.
"""

from __future__ import annotations

import gc

EACH = 100  # objects that a task may have under way, without being taken for garbage


def make_room(slots: int) -> None:
    """Let as many tasks be under way before the collector looks. Call in the child, once.

    What an app has set itself is only ever raised, and a collector that it turned off stays off.

    Args:
        slots: how many tasks the process runs at a time.
    """
    young, *older = gc.get_threshold()
    if 0 < young < EACH * slots:
        gc.set_threshold(EACH * slots, *older)
