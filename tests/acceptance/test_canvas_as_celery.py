"""Workflows in the shapes that Celery's own integration tests have come to what they come to there.

They are the shapes that once went wrong: groups that become chords, replacements with callbacks of their own, empty ones, errbacks
that are called too often or never. What is different here on purpose is in ``docs/explanation/from-celery.md``.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from amqtask.canvas import primitives
from amqtask.canvas.signature import signature
from amqtask.errors import ConfigurationError
from amqtask.results.group import GroupResult
from amqtask.results.handle import AsyncResult
from tests.acceptance.workflows import SOON, Canvas
from tests.waiting import eventually

chain: Any = primitives.chain
chord: Any = primitives.chord
group: Any = primitives.group

Make = Callable[[Canvas], Any]


def add(c: Canvas, *args: Any, **kwargs: Any) -> Any:
    return c.s("add", *args, **kwargs)


def ones(c: Canvas, count: int = 2) -> Any:
    """A group, each member of which adds one."""
    return group([add(c, 1) for _ in range(count)])


def links(c: Canvas, *sigs: Any) -> Any:
    """A chain that is taken as it is, as one that was read from a message is."""
    return signature(json.loads(json.dumps(chain.of(list(sigs)))), app=c.app)


def total(c: Canvas) -> Any:
    return c.s("total")


def same(c: Canvas, *args: Any) -> Any:
    return c.s("same", *args)


def two(c: Canvas) -> Any:
    """A group that comes to [2, 2]."""
    return group(add(c, 1, 1), add(c, 1, 1))


VALUES: dict[str, tuple[Make, Any]] = {
    "a chain of one": (lambda c: chain(add(c, 3, 4)), 7),
    "a chain of a chain of one": (lambda c: chain([chain(same(c, 42))]), 42),
    "a chain in a chain, one of them replaced, before a group": (
        lambda c: (
            add(c, 2, 2)
            | (add(c, 4) | c.s("swapped") | add(c, 16) | add(c, 32))
            | group(add(c, i) for i in range(4))
        ),
        [56, 57, 58, 59],
    ),
    "a group of a chain that ends in a group": (
        lambda c: group(add(c, 1, 2) | group(add(c, 1), add(c, 2))),
        [4, 5],
    ),
    "a chain in a group gets the arguments": (
        lambda c: add(c, 5, 6) | group((add(c, 1) | add(c, 2), add(c, 3))),
        [14, 14],
    ),
    "a group of tasks and of a chain that ends in a group": (
        lambda c: group(
            c.si("same", 1),
            c.si("same", 2),
            chain(c.si("same", 5), group([c.si("same", 3), c.si("same", 4)])),
        ),
        [1, 2, [3, 4]],
    ),
    "two groups and a task": (
        lambda c: c.si("add", 1, 0) | ones(c) | group(total(c), total(c)) | total(c),
        8,
    ),
    "groups and sums, link by link": (
        lambda c: c.si("add", 1, 0) | ones(c) | total(c) | add(c, 1) | ones(c) | total(c),
        12,
    ),
    "a chord behind a chord": (
        lambda c: c.si("add", 1, 0) | ones(c) | total(c) | add(c, 1) | chord(ones(c), total(c)),
        12,
    ),
    "a chain of chords": (
        lambda c: chain(
            chord(group(c.si("add", 1, 0), c.si("add", 1, 0)), total(c)),
            chord(ones(c), total(c)),
            chord(group(add(c, 0), add(c, 0)), total(c)),
        ),
        12,
    ),
    "nine groups, summed up each": (
        lambda c: chain(
            *(c.si("same", 3), *[sig for _ in range(8) for sig in (ones(c, 3), total(c))])
        ),
        29523,
    ),
    "a chain that begins with a group inside a chain": (
        lambda c: chain(links(c, two(c), total(c), add(c, 10)), add(c, 100)),
        114,
    ),
    "a chord, three tasks and a group": (
        lambda c: two(c) | total(c) | add(c, 1) | add(c, 1) | add(c, 1) | ones(c),
        [8, 8],
    ),
    "a group alone in a chain": (lambda c: chain(group(same(c, 42), same(c, 42))), [42, 42]),
    "a group in the middle": (
        lambda c: chain(same(c, 42), group(same(c), same(c)), same(c)),
        [42, 42],
    ),
    "sums around a group that is the body's own": (
        lambda c: chord(
            [add(c, 0, 1)],
            chord(
                [total(c), total(c)],
                chain(total(c), group(add(c, 8), add(c, 16)), total(c) | add(c, 32)),
            ),
        ),
        60,
    ),
    "empty groups at the end": (
        lambda c: chain(group(add(c, 2, 2), add(c, 4, 4)), group(), group()),
        [4, 8],
    ),
    "empty groups before the body": (
        lambda c: links(c, group(add(c, 2, 2), add(c, 4, 4)), group(), group(), total(c)),
        12,
    ),
    "empty chains in a group": (
        lambda c: group(chain(), add(c, 1, 2), chain(), add(c, 3, 4)),
        [3, 7],
    ),
    "groups in groups": (
        lambda c: group(add(c, 1, 10), group(add(c, 1, 100), group(add(c, 1, 1000)))),
        [11, 101, 1001],
    ),
    "a chord in a group": (lambda c: group((chord((c.si("same", 42),), same(c)),)), [[42]]),
    "chords of every kind of part": (
        lambda c: group(
            (
                chord(
                    (
                        c.si("same", 42),
                        chain((c.si("same", 42),) * 9),
                        group((c.si("same", 42),) * 9),
                        chord((c.si("same", 42),) * 9, c.si("same", 1337)),
                    ),
                    same(c),
                ),
            )
        ),
        [[42, 42, *(42,) * 9, 1337]],
    ),
    "a body that is a chain of one": (
        lambda c: group((chord(c.si("same", 42), chain((same(c),))),)),
        [[42]],
    ),
    "groups that are replaced keep their order": (
        lambda c: group([c.s("to_all", [2, 1], 1), c.s("to_all", [4, 3], 1)] * 5),
        [[3, 2], [5, 4]] * 5,
    ),
    "a replaced part and a body replaced by a group": (
        lambda c: chord(
            [
                chord([add(c, 1, 2), c.s("swapped", 7)], c.s("to_all", 5)) | total(c),
                chord([c.s("swapped", 13), add(c, 0, 0)], c.s("to_all", 8)) | total(c),
            ],
            c.s("to_all", 9),
        ),
        [29, 38],
    ),
    "parts that are added": (
        lambda c: group([c.s("adds", 5, 6, 7)]) | same(c),
        [0, 5, 6, 7],
    ),
    "a chord that is added": (
        lambda c: group([c.s("adds_chord", [1, 2, 3], 4)]) | same(c),
        [0, 18],
    ),
    "a task, a group, and a body that becomes a group": (
        lambda c: add(c, 2, 2) | group(add(c, i) for i in range(4)) | c.s("to_all", 8),
        [12, 13, 14, 15],
    ),
    "a chain that ends in a group inside a header": (
        lambda c: chain(
            c.si("add", 1, 0),
            group(
                c.si("add", 1, 100),
                chain(c.si("add", 1, 200), group(c.si("add", 1, 1000), c.si("add", 1, 2000))),
            ),
            c.si("add", 1, 10),
        ),
        11,
    ),
    "a header of one task": (lambda c: chord([add(c, 2, 5)], body=c.s("to_all", 9)), [16]),
    "a header of nothing": (lambda c: chord([], body=c.s("to_all", 9)), []),
    "a group of nothing before a task": (lambda c: group([]) | c.s("to_all", 9), []),
    "chords of lists": (
        lambda c: (
            group(
                [
                    group([add(c, 1, 2), add(c, 3, 4)]) | add(c, [5]),
                    group([add(c, 6, 7)]) | add(c, [10]),
                ]
            )
            | c.s("to_all", ["A"])
        ),
        [[3, 7, 5, "A"], [13, 10, "A"]],
    ),
    "groups of one, four deep": (
        lambda c: (
            group(
                [group([group([group([add(c, 1, 2)]) | add(c, [3])]) | add(c, [4])]) | add(c, [5])]
            )
            | add(c, [6])
        ),
        [[[[3, 3], 4], 5], 6],
    ),
    "chords beside each other": (lambda c: group(two(c) | total(c), two(c) | total(c)), [4, 4]),
    "chains that end in chords, in a chord": (
        lambda c: chord(
            group(
                [
                    chain(c.si("add", 1, 2), chord(group([c.si("add", 1, 2)] * 2), c.si("same", 3)))
                    for _ in range(2)
                ]
            ),
            c.si("add", 2, 2),
        ),
        4,
    ),
    "a group in a header": (
        lambda c: chord((group(same(c, 42), same(c, 42)),), same(c)),
        [42, 42],
    ),
    "a chain with a group for its tail, in a header": (
        lambda c: chord(group(chain(same(c, 42), group(same(c), same(c)))), same(c)),
        [[42, 42]],
    ),
    "a body that is a group": (
        lambda c: chord(
            group(c.si("same", 1), c.si("same", 2)), group(c.si("same", 3), c.si("same", 4))
        ),
        [3, 4],
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(canvas: Canvas, name: str) -> None:
    make, expected = VALUES[name]
    assert make(canvas).apply_async().get(timeout=SOON) == expected


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "expected"),
    [
        (lambda c: links(c, group(), add(c, 10)), (5,), {}, 15),
        (lambda c: links(c, chain(), add(c, 10)), (5,), {}, 15),
        (lambda c: links(c, links(c, group(), add(c, 10)), add(c, 20)), (5,), {}, 35),
        (lambda c: chain(chord([same(c), same(c)], same(c)), same(c)), (1,), {}, [1, 1]),
        (lambda c: chain(chain(same(c), same(c))), (1,), {}, 1),
        (
            lambda c: group(add(c, i) for i in range(4)) | c.s("to_all", 8),
            (4,),
            {"z": 1},
            [13, 14, 15, 16],
        ),
        (
            lambda c: add(c, 2, 2) | group(add(c, i) for i in range(4)) | c.s("to_all", 8),
            (),
            {"z": 1},
            [13, 14, 15, 16],
        ),
    ],
)  # fmt: skip
def test_partial_arguments_reach_what_runs_first(
    canvas: Canvas, make: Make, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
) -> None:
    assert make(canvas).apply_async(args, kwargs).get(timeout=SOON) == expected


# ---------------------------------------------------------------- how often callbacks are called

Counted = Callable[[Canvas, Callable[[], Any]], Any]


def _linked(sig: Any, **links: Any) -> Any:
    """The signature, with callbacks."""
    for name, link in links.items():
        getattr(sig, name)(link)
    return sig


CALLS: dict[str, tuple[Counted, int]] = {
    "of a replacement, which is a chain": (
        lambda c, note: chain(same(c, "x"), _swapped(c, note, 1)),
        1,
    ),
    "of a replacement and of the chain around it": (
        lambda c, note: _linked(chain(same(c, "x"), _swapped(c, note, 1), same(c)), link=note()),
        2,
    ),
    "of a replacement that fails": (
        lambda c, note: chain(same(c, "x"), _swapped(c, note, 2, fails=True), same(c)),
        1,
    ),
    "of a replacement that fails and of the chain around it": (
        lambda c, note: _linked(
            chain(same(c, "x"), _swapped(c, note, 2, fails=True), same(c)), link_error=note()
        ),
        2,
    ),
    "of a chain inside a chain": (
        lambda c, note: chain(_linked(chain(same(c, 1), add(c, 2)), link=note()), add(c, 3)),
        1,
    ),
    "of each link": (
        lambda c, note: chain(_linked(c.si("same", 1), link=note()) for _ in range(9)),
        9,
    ),
    "of the first link that fails": (
        lambda c, note: chain(_linked(c.si("fail"), link_error=note()) for _ in range(9)),
        1,
    ),
    "of a chain, whose first link is replaced": (
        lambda c, note: _linked(chain(c.s("swapped", 1), same(c)), link=note()),
        1,
    ),
    "of a chain that fails, whose first link is replaced": (
        lambda c, note: _linked(chain(c.s("swapped", 1), c.s("fail")), link_error=note()),
        1,
    ),
    "of a link that is replaced": (
        lambda c, note: chain(_linked(c.s("swapped", 1), link=note()), same(c)),
        1,
    ),
    "of a link that is replaced by one that fails": (
        lambda c, note: chain(
            _linked(c.s("swapped", 1, fails=True), link_error=note()), c.si("same", 1)
        ),
        1,
    ),
    "of a group": (
        lambda c, note: _linked(group(c.si("same", 1), c.si("same", 2)), link=note()),
        1,
    ),
    "of each member that fails": (
        lambda c, note: _linked(
            group(*(c.si("same", 1) for _ in range(4)), *(c.s("fail") for _ in range(5))),
            link_error=note(),
        ),
        5,
    ),
    "of each member": (
        lambda c, note: group(_linked(c.si("same", 1), link=note()) for _ in range(9)),
        9,
    ),
    "of a member that is replaced": (
        lambda c, note: group(_linked(c.s("swapped", 1), link=note()), c.si("same", 1)),
        1,
    ),
    "of a body whose header fails": (
        lambda c, note: _linked(
            chord([c.s("fail"), c.si("same", 1), c.s("fail")], c.s("same")), link_error=note()
        ),
        1,
    ),
    "of a body that fails": (
        lambda c, note: _linked(chord([c.si("same", 1)], c.s("fail")), link_error=note()),
        1,
    ),
    "of a chord of a chain that fails before its end": (
        lambda c, note: _linked(
            chord([chain(c.s("fail"), c.si("same", 1))], same(c)), link_error=note()
        ),
        1,
    ),
    "of a body that is a group, whose header fails": (
        lambda c, note: _linked(
            chord([c.si("same", 1), c.s("fail")], group(same(c), same(c))), link_error=note()
        ),
        2,
    ),
    "of chords in each other: of each body that does not run": (
        lambda c, note: _linked(
            chord([same(c, 3), chord([same(c, 1), c.s("fail")], same(c, 2))], same(c)),
            link_error=note(),
        ),
        2,
    ),
    "once each, however groups were put together": (
        lambda c, note: chain(
            chord(group([note(), note(), note()]), group([note(), note()])),
            group(note()),
            group(note()),
            note(),
        ),
        8,
    ),
    "once each, with a task between": (
        lambda c, note: chain(
            chord(group([note(), note()]), group([note(), note(), note()])),
            note(),
            group(note()),
            note(),
        ),
        8,
    ),
    "once each, in groups in a row": (
        lambda c, note: chain(
            group([note(), note()]), group([note(), note(), note()]), group([note()] * 3)
        ),
        8,
    ),
    "of a chord in a chain": (
        lambda c, note: chain(
            group(same(c, 1), same(c, 2)) | group(same(c), same(c)), (c.si("same", 1) | note())
        ),
        1,
    ),
}


def _swapped(c: Canvas, note: Callable[[], Any], at: int, *, fails: bool = False) -> Any:
    """A replacement with a callback of its own."""
    tag = note()["args"][0]
    return c.s("swapped", *[""] * (at - 1), tag, fails=fails)


def test_callbacks_are_called_as_often_as_celerys(canvas: Canvas) -> None:
    tags = {name: uuid.uuid4().hex for name in CALLS}
    sent = []
    for name, (make, _) in CALLS.items():
        tag = tags[name]
        sent.append(make(canvas, lambda tag=tag: canvas.si("note", tag)).apply_async())  # type: ignore[misc]  # a default of a lambda
    for result in sent:
        result.get(timeout=SOON, propagate=False)

    def said() -> dict[str, int]:
        counts: Counter[str] = canvas.place.count("end")
        return {name: counts[tag] for name, tag in tags.items()}

    expected = {name: times for name, (_, times) in CALLS.items()}
    eventually(lambda: all(said()[name] >= times for name, times in expected.items()), SOON)
    # what was published by then is before these
    assert group(canvas.si("same", n) for n in range(20)).delay().get(timeout=SOON)
    assert said() == expected


# ---------------------------------------------------------------- order, ids and errors


def test_groups_around_a_task_run_in_turn(canvas: Canvas) -> None:
    tag = uuid.uuid4().hex
    before = group(canvas.si("note", f"{tag} before") for _ in range(3))
    after = group(canvas.si("note", f"{tag} after") for _ in range(2))
    (before | canvas.si("note", f"{tag} between") | after).delay().get(timeout=SOON)
    assert said(canvas, tag) == ["before"] * 3 + ["between"] + ["after"] * 2


def test_a_replacement_is_replaced(canvas: Canvas) -> None:
    tag = uuid.uuid4().hex
    assert canvas.s("begin", tag).delay().get(timeout=SOON) == tag
    assert said(canvas, tag) == ["In A", "In B", "C", "Out B", "Out A"]


def said(canvas: Canvas, tag: str) -> list[str]:
    """What tasks wrote after this tag, in that order."""
    lines = canvas.place.path.joinpath("ledger").read_text().splitlines()
    return [line.split(tag)[1].strip() for line in lines if tag in line]


def test_an_empty_chain_takes_no_tasks_place(canvas: Canvas) -> None:
    with pytest.raises(ConfigurationError, match="empty chain"):
        chain(same(canvas, 1), canvas.s("nothing")).delay().get(timeout=SOON)


@pytest.mark.parametrize("at", range(3))
def test_a_failure_is_raised_for_what_follows(canvas: Canvas, at: int) -> None:
    steps = [add(canvas, 1, 1), add(canvas, 1), group(add(canvas, 1), add(canvas, 1))]
    steps[at] = group(add(canvas, 1), canvas.s("fail")) if at == 2 else canvas.s("fail")
    with pytest.raises(ValueError, match="no luck"):
        chain(*steps).delay().get(timeout=SOON)


@pytest.mark.parametrize("how", ["methods", "operators"])
def test_a_chord_knows_what_came_before(canvas: Canvas, how: str) -> None:
    parts = group(canvas.si("tells") for _ in range(5))
    first, second = canvas.si("tells"), canvas.si("tells")
    root_id = first.freeze().id
    if how == "methods":
        sig = chain(first, second, chord(parts, chain(canvas.s("same"), canvas.si("tells"))))
    else:
        sig = first | second | parts | canvas.s("same") | canvas.si("tells")
    result = sig()
    body = result.parent
    header, link = body.parent, body.parent.parent
    assert [type(each) for each in (result, body, header, link, link.parent)] == [
        AsyncResult, AsyncResult, GroupResult, AsyncResult, AsyncResult,
    ]  # fmt: skip
    last, told, second_told, first_told = (
        each.get(timeout=SOON) for each in (result, body, link, link.parent)
    )
    assert {each["root_id"] for each in (last, *told, second_told, first_told)} == {root_id}
    assert last["parent_id"] == body.id
    assert {each["parent_id"] for each in told} == {link.id}
    assert second_told["parent_id"] == link.parent.id == root_id
    assert first_told["parent_id"] is None


@pytest.mark.parametrize("task_id", [None, "chosen"])
def test_every_node_of_the_results_has_an_id_of_its_own(
    canvas: Canvas, task_id: str | None
) -> None:
    own = {} if task_id is None else {"task_id": f"{task_id}-{uuid.uuid4()}"}
    sigs = {
        6: group(canvas.si("same", 1), chain(canvas.si("same", 2), ones_of(canvas, 2))),
        9: chain(
            canvas.si("add", 1, 0),
            group(add(canvas, 1), add(canvas, 2)),
            group(total(canvas), total(canvas)),
            total(canvas),
            add(canvas, 1),
            **own,
        ),
    }
    for count, sig in sigs.items():
        result = sig.apply_async()
        ids = ids_of(result.as_tuple())
        assert len(ids) == len(set(ids)) == count
        assert result.get(timeout=SOON)


def ones_of(c: Canvas, count: int) -> Any:
    return group([c.si("same", 1) for _ in range(count)])


def ids_of(node: Any) -> list[str]:
    """The ids of a tree of results, in Celery's tuple form."""
    (own, parent), children = node
    below = [each for child in children or () for each in ids_of(child)]
    return [own, *below, *(ids_of(parent) if parent is not None else ())]
