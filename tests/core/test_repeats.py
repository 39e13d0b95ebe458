"""What a run says of what it may have sent before."""

from __future__ import annotations

from amqtask.core.dead import AGAIN
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Send, Sequel
from amqtask.core.repeats import may_be_repeat, repeat, repeated


def publication(**headers: object) -> Publication:
    return Publication("e", "k", Envelope(b"body", Properties(headers=headers or None)))


def test_only_what_starts_something_is_marked() -> None:
    plan, result = publication(), publication()
    sent = Send(publication(task="t"), "queue", "call")

    sequel = repeated(Sequel(plans=(Send(plan),), sends=(sent,), results=(result,)))

    assert sequel.plans == (Send(plan),)
    assert sequel.results == (result,)
    assert sequel.sends == (Send(publication(task="t", **{AGAIN: 1}), "queue", "call"),)
    assert sent.publication == publication(task="t")


def test_a_mark_is_found_again() -> None:
    assert may_be_repeat(repeat(publication()).envelope.properties.headers)
    assert not may_be_repeat(None)
    assert not may_be_repeat({"task": "t"})
