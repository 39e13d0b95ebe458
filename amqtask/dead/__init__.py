"""Dead letters on a broker: which queues hold them, a look that changes nothing, and moves that lose nothing.

``look.py`` reads without settling. ``mover.py`` publishes a batch of copies, waits until they are safe, and takes the letters away
only then; what it was about to do stands in a journal at the broker (``core/moves.py``), so that the same command, run again
after it was killed at any instant, finds out what became of the batch under way. Only where the broker was restarted in the
same moment that cannot be told: then the letter is sent again, marked. ``docs/decisions/0013`` has the measurements.
"""
