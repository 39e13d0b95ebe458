"""Every delivery ends in exactly one of ack, reject, nack, or lost with its epoch."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amqtask.core.ledger import Ledger, Settle
from amqtask.core.outcome import Verdict


class Broker:
    """The broker's side of a channel: which tags it holds unacked, and how each was settled."""

    def __init__(self) -> None:
        self.unacked: set[int] = set()
        self.settled: dict[int, Verdict] = {}

    def receive(self, command: Settle) -> None:
        tags = (
            {tag for tag in self.unacked if tag <= command.tag}
            if command.multiple
            else {command.tag}
        )
        assert command.tag in self.unacked, f"{command} settles a tag the broker does not hold"
        for tag in tags:
            self.unacked.discard(tag)
            self.settled[tag] = command.verdict


class LedgerMachine(RuleBasedStateMachine):
    """Random deliveries, verdicts, flushes and losses against the broker's side."""

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.ledger.open_epoch()
        self.broker = Broker()
        self.tag = 0
        self.decided: dict[int, Verdict] = {}
        self.old: list[tuple[int, int]] = []

    @rule()
    def deliver(self) -> None:
        self.tag += 1
        self.broker.unacked.add(self.tag)
        self.ledger.accept(self.tag)

    @precondition(lambda self: self.tag > len(self.decided))
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def decide(self, data: st.DataObject, verdict: Verdict) -> None:
        open_tags = [tag for tag in range(1, self.tag + 1) if tag not in self.decided]
        tag = data.draw(st.sampled_from(open_tags))
        assert self.ledger.settle(self.ledger.epoch, tag, verdict)
        self.decided[tag] = verdict

    @precondition(lambda self: self.decided)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def decide_again(self, data: st.DataObject, verdict: Verdict) -> None:
        tag = data.draw(st.sampled_from(sorted(self.decided)))
        assert not self.ledger.settle(self.ledger.epoch, tag, verdict)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def decide_stale(self, data: st.DataObject, verdict: Verdict) -> None:
        epoch, tag = data.draw(st.sampled_from(self.old))
        assert not self.ledger.settle(epoch, tag, verdict)

    @rule()
    def flush(self) -> None:
        for command in self.ledger.flush():
            self.broker.receive(command)
        assert self.broker.settled == self.decided
        assert not self.ledger.unsent

    @rule()
    def lose(self) -> None:
        self.old += [(self.ledger.epoch, tag) for tag in range(1, self.tag + 1)]
        self.ledger.open_epoch()
        self.broker = Broker()
        self.tag = 0
        self.decided = {}

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "ledger"):
            assert len(self.ledger) == self.tag - len(self.decided)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40)


def test_everything_acked_is_one_frame() -> None:
    ledger = Ledger()
    epoch = ledger.open_epoch()
    for tag in range(1, 65):
        ledger.accept(tag)
        ledger.settle(epoch, tag, Verdict.ACK)

    assert ledger.flush() == [Settle(Verdict.ACK, 64, multiple=True)]


def test_an_open_delivery_is_not_acked_with_its_neighbours() -> None:
    ledger = Ledger()
    epoch = ledger.open_epoch()
    for tag in range(1, 6):
        ledger.accept(tag)
    for tag in (1, 2, 4, 5):
        ledger.settle(epoch, tag, Verdict.ACK)

    assert ledger.flush() == [
        Settle(Verdict.ACK, 2, multiple=True),
        Settle(Verdict.ACK, 4),
        Settle(Verdict.ACK, 5),
    ]
