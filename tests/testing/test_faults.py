"""A schedule is a function of its seed, holds what was asked for, and names only what can be done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.errors import ConfigurationError
from amqtask.testing import faults
from amqtask.testing.faults import KINDS, choose_kinds, schedule

ALL = choose_kinds((), node=True)


@given(st.integers(), st.integers(0, 60), st.floats(1, 1000))
def test_a_seed_gives_the_same_schedule_in_order(seed: int, count: int, duration: float) -> None:
    found = schedule(seed, count, duration, ALL)

    assert found == schedule(seed, count, duration, ALL)
    assert len(found) == count
    assert [fault.at for fault in found] == sorted(fault.at for fault in found)
    assert all(0 <= fault.at <= duration for fault in found)
    for fault in found:
        shortest, longest = KINDS[fault.kind].hold
        assert shortest <= fault.hold <= longest


def test_every_kind_comes_when_there_are_enough() -> None:
    assert {fault.kind for fault in schedule(3, len(ALL), 60, ALL)} == set(KINDS)
    assert schedule(1, 40, 200, ALL) != schedule(2, 40, 200, ALL)


def test_a_few_faults_are_the_ones_that_matter_most() -> None:
    assert {fault.kind for fault in schedule(5, 10, 60, ALL)} == set(faults.FIRST)
    assert set(faults.FIRST) < set(KINDS)


def test_a_seed_is_a_promise_to_those_who_wrote_it_down() -> None:
    found = schedule(1, 6, 30, ALL)
    assert [(fault.kind, round(fault.at, 2), round(fault.pick, 3)) for fault in found] == [
        ("cut", 2.35, 0.183),
        ("kill-supervisor", 8.33, 0.303),
        ("kill-publisher", 14.34, 0.765),
        ("broker-kill", 17.6, 0.143),
        ("kill-child", 23.76, 0.317),
        ("freeze", 28.09, 0.459),
    ]


def test_what_happens_inside_a_fault_happens_while_it_holds() -> None:
    found = [fault for seed in range(40) for fault in schedule(seed, 20, 100, ALL)]
    nested = [fault for fault in found if fault.inside is not None]

    assert nested
    for fault in nested:
        assert fault.inside is not None
        assert fault.at < fault.inside.at < fault.at + fault.hold
        assert fault.inside.kind in faults.NEST


def test_somebody_elses_broker_is_left_alone() -> None:
    kinds = choose_kinds((), node=False)
    assert kinds
    assert not any(kind.node for kind in kinds)
    assert choose_kinds(("cut", "kill-child", "cut"), node=False) == (
        KINDS["cut"],
        KINDS["kill-child"],
    )
    with pytest.raises(ConfigurationError, match="'broker-kill' stops the broker"):
        choose_kinds(("broker-kill",), node=False)


def test_an_unknown_fault_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'kill-child'"):
        choose_kinds(("kill-chidl",), node=True)
    with pytest.raises(ConfigurationError, match="There are: kill-child"):
        choose_kinds(("zzz",), node=True)
