"""How many children: quick to grow, slow to shrink, never beyond its bounds, and nothing decided on ignorance."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.autoscale import GAP, LOOKS, STEP, Bounds, Look, Scale, begin, decide

BOUNDS = Bounds(least=1, most=10)


class Watch:
    """Looks once a second at a node whose children are ready at the next look."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.scale = begin(bounds)
        self.now = 100.0

    def look(self, waiting: int | None, busy: int, seconds: float = 1.0, **more: int) -> int:
        """Look a second later; how many children are wanted."""
        self.now += seconds
        working = more.get("working", self.scale.wanted)
        idle = more.get("idle", max(0, working * self.bounds.slots - busy))
        self.scale = decide(self.bounds, self.scale, Look(waiting, working, busy, idle), self.now)
        return self.scale.wanted


def test_it_doubles_while_messages_wait_and_no_slot_is_idle() -> None:
    watch = Watch(Bounds(least=1, most=40))

    found = [watch.look(500, watch.scale.wanted) for _ in range(9)]

    assert found == [2, 4, 8, 16, 24, 32, 40, 40, 40]


def test_it_grows_by_what_is_needed() -> None:
    assert Watch(Bounds(4, 40)).look(2, 4) == 6
    assert Watch(Bounds(4, 40, slots=10)).look(12, 40) == 6  # 52 tasks in slots of ten


def test_it_grows_from_nothing() -> None:
    watch = Watch(Bounds(least=0, most=4))

    assert watch.look(0, 0) == 0
    assert watch.look(3, 0) == 1
    assert watch.look(2, 1) == 2


def test_it_waits_for_what_is_starting() -> None:
    watch = Watch()

    assert watch.look(100, 1) == 2
    assert watch.look(100, 1, working=1, idle=0) == 2
    assert watch.look(100, 2) == 4


def test_messages_beside_idle_slots_are_on_their_way_unless_it_stays_so() -> None:
    watch = Watch()

    assert [watch.look(50, 0) for _ in range(LOOKS)] == [1] * (LOOKS - 1) + [2]


def test_short_tasks_count_by_what_has_run_since() -> None:
    """At the moment of the look no slot is busy; but none was idle."""
    assert Watch().look(50, 0, idle=0) == 2


def test_few_messages_that_idle_slots_can_run_need_nobody() -> None:
    watch = Watch(Bounds(4, 10))

    assert {watch.look(2, 1) for _ in range(20)} == {4}


def grown(wanted: int, most: int = 10) -> Watch:
    watch = Watch(Bounds(least=1, most=most))
    while watch.scale.wanted < wanted:
        watch.look(wanted - watch.scale.wanted, watch.scale.wanted)
    return watch


def test_it_shrinks_after_the_keepalive_a_quarter_at_a_time() -> None:
    watch = grown(8)

    found = [watch.look(0, 0) for _ in range(80)]

    assert found[:29] == [8] * 29
    assert found[30:] == sorted(found[30:], reverse=True)
    steps = [before - after for before, after in pairwise(found)]
    assert max(steps) == 2
    assert found[-1] == 1
    # between two steps some seconds pass
    assert all(sum(each > 0 for each in steps[i : i + 5]) <= 1 for i in range(len(steps)))


def test_what_was_needed_a_moment_ago_stays() -> None:
    watch = grown(8)

    for _ in range(20):
        for _ in range(28):
            assert watch.look(0, 1) == 8
        assert watch.look(0, 8) == 8


def test_a_refill_turns_a_shrink_around_at_once() -> None:
    watch = grown(8)
    while watch.scale.wanted > 4:
        watch.look(0, 0)

    assert watch.look(100, 4) == 8


def test_what_nobody_knows_changes_nothing() -> None:
    watch = grown(8)

    assert {watch.look(None, 0) for _ in range(100)} == {8}
    # and the time of ignorance is not one in which nothing was needed
    assert {watch.look(0, 0) for _ in range(28)} == {8}
    watch.look(0, 0)
    assert watch.look(0, 0) < 8


def test_a_gap_is_ignorance() -> None:
    watch = grown(8)
    watch.look(0, 0)

    assert watch.look(0, 0, seconds=3600.0) == 8
    assert {watch.look(0, 0) for _ in range(28)} == {8}


LOOKING = st.tuples(
    st.none() | st.integers(0, 60),  # waiting
    st.floats(0, 1),  # how many of the slots are busy
    st.floats(0, 1),  # and how many of the others have run nothing
    st.booleans(),  # all children are there
    st.floats(0.01, 2 * GAP),
)


@given(
    least=st.integers(0, 6),
    more=st.integers(0, 30),
    slots=st.integers(1, 5),
    looks=st.lists(LOOKING, max_size=80),
)
def test_whatever_is_seen(
    least: int, more: int, slots: int, looks: list[tuple[int | None, float, float, bool, float]]
) -> None:
    bounds = Bounds(least, max(1, least + more), slots, keepalive=20.0)
    scale, now = begin(bounds), 0.0
    past: list[tuple[float, int]] = []  # when, and how many were needed
    for waiting, busy_part, idle_part, all_there, seconds in looks:
        now += seconds
        before = scale
        working = scale.wanted if all_there else scale.wanted // 2
        busy = round(busy_part * working * slots)
        look = Look(waiting, working, busy, round(idle_part * (working * slots - busy)))
        scale = decide(bounds, before, look, now)

        assert scale == decide(bounds, before, look, now)
        assert bounds.least <= scale.wanted <= bounds.most
        unknown = waiting is None or (seconds > GAP and before.looked is not None)
        if unknown:
            assert scale.wanted == before.wanted
        if scale.wanted > before.wanted:
            assert waiting
            assert all_there or before.wanted == 0
            assert scale.wanted - before.wanted <= max(1, min(before.wanted, STEP))
        past.append((now, before.wanted if waiting or unknown else -(-busy // slots)))
        if scale.wanted < before.wanted:
            assert waiting == 0
            recent = [need for at, need in past if now - at < bounds.keepalive]
            assert scale.wanted >= max(recent), "one was let go that was needed a moment ago"
            assert scale.wanted >= before.wanted - max(1, before.wanted // 4)
        assert len(scale.needs) <= bounds.most + 1


@given(
    start=st.integers(1, 40),
    busy_part=st.floats(0, 1),
    waiting=st.integers(0, 200),
    least=st.integers(0, 10),
)
def test_a_steady_world_comes_to_rest(
    start: int, busy_part: float, waiting: int, least: int
) -> None:
    """The same work for ever leads to one number and stays there."""
    bounds = Bounds(least, 40)
    work = round(busy_part * start) + waiting
    scale, now = Scale(max(start, least)), 0.0
    found = []
    for _ in range(400):
        now += 1.0
        busy = min(work, scale.wanted)
        look = Look(work - busy, scale.wanted, busy, scale.wanted - busy)
        scale = decide(bounds, scale, look, now)
        found.append(scale.wanted)

    assert set(found[-40:]) == {max(least, min(40, work))}
