"""From an outcome to its settlement."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Failed, Ignored, Rejected, Succeeded
from amqtask.core.settlement import decide, needs_letter
from benchmarks.micro.timing import Case


def cases() -> Iterator[Case]:
    """What ends well, without and with a result, and what does not."""
    done, failed = Succeeded(None, 0.001), Failed(ValueError("no"), "Traceback …", "failure")
    rejected, ignored = Rejected("no", requeue=False), Ignored()
    publication = Publication("", "reply", Envelope(b"{}", Properties()))
    yield Case("succeeded, no result wanted", lambda: decide(done, None, None))
    yield Case("succeeded, with a result", lambda: decide(done, publication, None))
    yield Case(
        "failed, with result and dead letter", lambda: decide(failed, publication, publication)
    )
    yield Case("rejected", lambda: decide(rejected, None, publication))
    yield Case("ignored", lambda: decide(ignored, None, None))
    yield Case("needs_letter", lambda: needs_letter(done))
