"""What a publisher sends next, and what a confirm, a return, a nack, a loss and the time mean: without a broker."""

from __future__ import annotations

import pytest

from amqtask.core.confirms import STALLED
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outgoing import NEVER, Ended, Ending, Entry, Outgoing, Refused
from amqtask.errors import ConnectionLost, LoginRefused, OperationRefused, Unroutable

LOST = ConnectionLost("gone")
NO_EXCHANGE = OperationRefused(404, "NOT_FOUND - no exchange 'x'")


class Ladder:
    """Ways that are open when a test says so."""

    def __init__(self) -> None:
        self.opened: set[str] = set()

    def open(self, queue: str, _now: float) -> bool:
        return queue in self.opened

    def expect(self, queue: str, publication: Publication) -> None: ...

    def in_time(
        self, publication: Publication, since: float, now: float
    ) -> tuple[Publication, float]:
        moved = Publication(publication.exchange, f"{int(now - since)} late", publication.envelope)
        return moved, now

    def forget(self) -> None:
        self.opened.clear()


class Publisher:
    """A shell without a broker: ``sent`` is what went out, by the name of the message."""

    def __init__(self, window: int = 1000) -> None:
        self.ways = Ladder()
        self.core = Outgoing(window, self.ways)
        self.core.opened()
        self.sent: list[str] = []

    def hand_over(
        self,
        *names: str,
        deadline: float = NEVER,
        due_in: str | None = None,
        queue: str = "q",
        now: float = 0.0,
    ) -> list[Entry]:
        entries = []
        for name in names:
            envelope = Envelope(b"", Properties(message_id=name))
            publication = Publication("", queue, envelope)
            entries.append(Entry(publication, b"", lambda _error: None, now, deadline, due_in))
            self.core.add(entries[-1], now)
        self.pump(now)
        return entries

    def pump(self, now: float = 0.0) -> None:
        while taken := self.core.take(now):
            self.core.sent(taken, now)
            self.sent += map(name_of, taken)

    def confirm(
        self, tag: int, multiple: bool = False, ok: bool = True, now: float = 0.0
    ) -> list[tuple[str, object]]:
        ended = self.core.confirmed(tag, multiple, ok, now)
        self.pump(now)
        return named(ended)

    def lose(self, error: ConnectionLost | OperationRefused = LOST) -> list[tuple[str, object]]:
        ended = self.core.lost(error, ever_open=True)
        self.core.opened()
        self.pump()
        return named(ended)


def name_of(entry: Entry) -> str:
    return entry.publication.envelope.properties.message_id or ""


def named(ended: object) -> list[tuple[str, object]]:
    assert isinstance(ended, list)
    pairs: list[Ended] = ended
    return [(name_of(entry), why) for entry, why in pairs]


def test_what_is_handed_over_goes_out_in_order_and_ends_with_its_confirm() -> None:
    publisher = Publisher()
    publisher.hand_over("a", "b", "c")
    assert publisher.sent == ["a", "b", "c"]
    assert publisher.confirm(2) == [("b", None)]
    assert publisher.confirm(3, multiple=True) == [("a", None), ("c", None)]
    assert not publisher.core.backlog
    assert not len(publisher.core.in_flight)


def test_the_window_bounds_what_has_no_confirm() -> None:
    publisher = Publisher(window=2)
    publisher.hand_over("a", "b", "c", "d")
    assert publisher.sent == ["a", "b"]
    assert publisher.core.backlog == 2
    publisher.confirm(1)
    assert publisher.sent == ["a", "b", "c"]


def test_nothing_is_sent_without_a_channel_or_while_the_broker_blocks() -> None:
    publisher = Publisher()
    publisher.core.lost(LOST, ever_open=True)
    publisher.hand_over("a")
    assert publisher.sent == []
    publisher.core.blocked = "memory"
    publisher.core.opened()
    publisher.pump()
    assert publisher.sent == []
    publisher.core.blocked = None
    publisher.pump()
    assert publisher.sent == ["a"]


def test_what_has_no_confirm_is_sent_again_before_all_else_on_the_next_channel() -> None:
    publisher = Publisher(window=2)
    publisher.hand_over("a", "b", "c")
    publisher.confirm(1)
    publisher.sent.clear()
    assert publisher.lose() == []
    assert publisher.sent == ["b", "c"]
    assert publisher.confirm(2, multiple=True) == [("b", None), ("c", None)]


def test_the_one_to_blame_for_a_closed_channel_is_found_and_its_neighbours_live() -> None:
    publisher = Publisher()
    publisher.hand_over("good", "bad", "fine")
    publisher.sent.clear()
    assert publisher.lose(NO_EXCHANGE) == []
    assert publisher.sent == ["good"]  # one at a time
    assert publisher.confirm(1) == [("good", None)]
    assert publisher.sent == ["good", "bad"]
    assert publisher.lose(NO_EXCHANGE) == [("bad", Refused(NO_EXCHANGE))]
    assert publisher.confirm(1) == [("fine", None)]
    publisher.hand_over("x", "y")
    assert publisher.sent[-2:] == ["x", "y"]  # together again


def test_a_returned_message_ends_with_the_brokers_reason() -> None:
    publisher = Publisher()
    publisher.hand_over("a", "b")
    publisher.core.returned("", "q", Properties(message_id="b"), "312 NO_ROUTE")
    assert publisher.confirm(2, multiple=True) == [("a", None), ("b", "312 NO_ROUTE")]


def test_a_nack_is_questioned_on_another_channel_and_believed_in_the_end() -> None:
    publisher = Publisher()
    publisher.hand_over("a", now=10.0)
    assert publisher.confirm(1, ok=False, now=10.0) == []
    core, now, channels = publisher.core, 10.0, 0
    ended: list[tuple[str, object]] = []
    while not ended:
        assert now < 20.0
        now = max(core.due, now)
        core.tick(now)
        if core.renewal():
            assert not core.renewal()  # said once
            channels += 1
            publisher.lose()
            ended = publisher.confirm(1, ok=False, now=now)
    assert ended == [("a", Ending.NACKED)]
    assert channels > 1
    assert 2.0 <= now - 10.0 < 4.0


def test_a_channel_is_not_renewed_while_the_broker_owes_an_answer_but_it_waits_only_a_moment() -> (
    None
):
    publisher = Publisher()
    publisher.hand_over("full", "silent", now=5.0)
    publisher.confirm(1, ok=False, now=5.0)
    publisher.core.tick(publisher.core.due)
    assert publisher.core.renewing
    publisher.hand_over("late", now=5.2)
    assert publisher.sent == ["full", "silent"]
    assert not publisher.core.renewal()
    publisher.core.tick(publisher.core.due)
    publisher.pump()
    assert publisher.sent == ["full", "silent", "full", "late"]


def test_what_passes_its_deadline_ends_wherever_it_is() -> None:
    publisher = Publisher(window=1)
    publisher.hand_over("sent", "waits", deadline=3.0)
    publisher.hand_over("parked", deadline=4.0, due_in="q")
    publisher.hand_over("patient")
    core = publisher.core
    assert core.due == 3.0
    assert core.tick(2.9) == []
    assert named(core.tick(3.0)) == [("sent", Ending.LATE), ("waits", Ending.LATE)]
    assert named(core.tick(4.0)) == [("parked", Ending.LATE)]
    assert core.backlog == 1
    publisher.pump()
    assert publisher.sent == ["sent", "patient"]
    assert publisher.confirm(1) == []  # of one that was given up


def test_what_was_refused_is_refused_when_its_time_is_over() -> None:
    publisher = Publisher()
    publisher.hand_over("a", deadline=0.05)
    publisher.confirm(1, ok=False)
    assert named(publisher.core.tick(0.05)) == [("a", Ending.NACKED)]
    assert not publisher.core.backlog


def test_without_any_confirm_the_channel_is_renewed_and_the_patience_doubles() -> None:
    publisher = Publisher()
    publisher.hand_over("a")
    core = publisher.core
    assert core.due == STALLED
    core.tick(core.due)
    assert core.stalled == STALLED
    assert core.renewal()
    publisher.hand_over("b", now=3.1)
    assert publisher.sent == ["a"]  # nothing behind a channel's close
    publisher.lose()
    assert publisher.sent == ["a", "a", "b"]
    core.tick(core.due)
    assert core.stalled == 2 * STALLED


@pytest.mark.parametrize("excuse", ["a confirm", "blocked", "congested"])
def test_a_broker_with_an_excuse_has_not_stalled(excuse: str) -> None:
    publisher = Publisher()
    publisher.hand_over("a", "b")
    core = publisher.core
    if excuse == "a confirm":
        publisher.confirm(1)
    elif excuse == "blocked":
        core.blocked = "memory"
    core.tick(STALLED, congested=excuse == "congested")
    assert core.stalled is None
    assert not core.renewal()
    assert core.due == 2 * STALLED


def test_what_goes_into_the_ladder_waits_for_its_way_and_loses_that_time() -> None:
    publisher = Publisher()
    (entry,) = publisher.hand_over("a", due_in="target", now=1.0)
    core = publisher.core
    assert core.wanted == ["target"]
    assert publisher.sent == []
    assert core.paved("target", None) == []
    publisher.pump(4.0)
    assert entry.publication.routing_key == "3 late"


def test_a_way_that_cannot_be_opened_ends_what_waits_for_it() -> None:
    publisher = Publisher()
    publisher.hand_over("a", "b", due_in="nowhere")
    error = Unroutable("no such queue")
    assert named(publisher.core.paved("nowhere", error)) == [("a", error), ("b", error)]
    assert not publisher.core.backlog


@pytest.mark.parametrize("how", ["returned", "closed"])
def test_a_ladder_that_was_deleted_is_made_once_more(how: str) -> None:
    publisher = Publisher()
    core = publisher.core
    publisher.ways.opened.add("target")

    def fail() -> list[tuple[str, object]]:
        if how == "closed":
            return publisher.lose(NO_EXCHANGE)
        core.returned("", "0 late", Properties(message_id="a"), "312 NO_ROUTE")
        return publisher.confirm(core.in_flight.oldest)

    publisher.hand_over("a", due_in="target")
    assert fail() == []
    assert core.wanted == ["target"]
    core.paved("target", None)
    publisher.pump()
    ((name, why),) = fail()
    assert name == "a"
    assert why == (Refused(NO_EXCHANGE) if how == "closed" else "312 NO_ROUTE")


def test_a_refused_first_login_ends_what_has_a_deadline() -> None:
    publisher = Publisher()
    core = publisher.core
    core.lost(LOST, ever_open=False)
    publisher.hand_over("a", deadline=9.0)
    publisher.hand_over("b")
    refused = LoginRefused("no")
    assert core.lost(refused, ever_open=True) == []
    assert named(core.lost(refused, ever_open=False)) == [("a", refused)]
    assert core.backlog == 1


def test_what_nobody_waits_for_is_not_sent_and_its_confirm_is_ignored() -> None:
    publisher = Publisher(window=1)
    sent, waits, stays = publisher.hand_over("sent", "waits", "stays")
    parked = publisher.hand_over("parked", due_in="target", deadline=5.0)
    core = publisher.core
    assert core.give_up([sent, waits, *parked]) == 3
    assert core.give_up([sent, waits]) == 0
    assert core.backlog == 1
    publisher.pump()
    assert publisher.sent == ["sent", "stays"]
    assert publisher.confirm(1) == []
    assert core.tick(5.0) == []
    core.paved("target", None)
    publisher.pump()
    assert publisher.confirm(2) == [("stays", None)]
    assert core.backlog == 0
    assert not stays.gone


def test_giving_up_all_leaves_nothing() -> None:
    publisher = Publisher(window=1)
    publisher.hand_over("a", "b", deadline=3.0)
    publisher.hand_over("c", due_in="target")
    assert list(map(name_of, publisher.core.give_up_all())) == ["a", "b", "c"]
    assert publisher.core.backlog == 0
    assert publisher.core.due == NEVER
