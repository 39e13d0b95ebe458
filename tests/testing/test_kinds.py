"""Which task a number is follows from the seed, in every process."""

from __future__ import annotations

from collections import Counter

from amqtask.testing.kinds import KINDS, choose


def test_a_number_is_the_same_task_everywhere() -> None:
    assert [choose(1, number) for number in range(50)] == [
        choose(1, number) for number in range(50)
    ]
    assert choose(1, 7) != choose(2, 7)


def test_kinds_come_by_weight() -> None:
    found = Counter(choose(1, number).kind for number in range(3000))
    total = sum(kind.weight for kind in KINDS.values())
    assert set(found) == set(KINDS)
    for kind in KINDS.values():
        assert abs(found[kind.name] / 3000 - kind.weight / total) < 0.05
    assert {choose(1, number, ("cpu",)).kind for number in range(20)} == {"cpu"}


def test_every_kind_comes_in_a_run_however_rare_it_is() -> None:
    for seed in range(20):
        found = Counter(choose(seed, number, (), 40).kind for number in range(40))
        assert set(found) == set(KINDS)
    assert [choose(3, number, (), 40) for number in range(40)] == [
        choose(3, number, (), 40) for number in range(40)
    ]
    assert choose(3, 2, (), 5).kind in KINDS  # too few for that
