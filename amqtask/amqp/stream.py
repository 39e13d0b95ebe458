"""The stream of verdicts as a declaration."""

from __future__ import annotations

from amqtask.core.verdicts import STREAM
from amqtask.settings import Settings
from amqtask.topology.plan import DeclareQueue

SEGMENT_BYTES = 5_000_000  # the broker forgets whole segments: small ones keep it near the limits


def verdict_stream(settings: Settings) -> DeclareQueue:
    """What declares the stream: bounded in age and size. All apps of a virtual host share it, because task ids are unique."""
    return DeclareQueue(
        STREAM,
        arguments={
            "x-queue-type": "stream",
            "x-max-age": f"{max(1, round(settings.verdict_max_age))}s",
            "x-max-length-bytes": settings.verdict_max_bytes,
            "x-stream-max-segment-size-bytes": min(SEGMENT_BYTES, settings.verdict_max_bytes),
        },
    )
