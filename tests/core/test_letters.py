"""Dead letters as people look at them: read, chosen, grouped, changed."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import letters
from amqtask.core.letters import Filter, Groups, Letter
from amqtask.core.message import Properties
from amqtask.errors import MessageError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OURS = {
    "task": "shop.pay",
    "id": "abc",
    "lang": "py",
    "amqtask-dead-reason": "failure",
    "amqtask-dead-exception": "ValueError",
    "amqtask-dead-message": "no such order",
    "amqtask-dead-traceback": "Traceback",
    "amqtask-dead-queue": "pay",
    "amqtask-dead-node": "n1",
    "amqtask-dead-attempts": 3,
    "amqtask-dead-time": "2026-11-21T10:00:00+00:00",
    "amqtask-dead-first-time": "2026-11-20T10:00:00+00:00",
}
JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}


def x_death(reason: str, queue: str, hours: float = 0.0, count: int = 1) -> dict[str, object]:
    return {"reason": reason, "queue": queue, "count": count, "time": NOW - timedelta(hours=hours)}


def test_what_a_worker_wrote() -> None:
    found = letters.read(Properties(headers=OURS), b"12345", "pay.dead")

    assert (found.id, found.task, found.source, found.node) == ("abc", "shop.pay", "pay", "n1")
    assert (found.reason, found.error, found.message) == ("failure", "ValueError", "no such order")
    assert (found.attempts, found.rounds, found.size) == (3, 0, 5)
    assert found.time == NOW - timedelta(hours=2)
    assert found.first_time == NOW - timedelta(hours=26)


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("delivery_limit", "delivery limit"),
        ("maxlen", "overflow"),
        ("expired", "expired"),
        ("rejected", "rejected"),
        ("something new", "something new"),
    ],
)
def test_what_only_the_broker_told(reason: str, ours: str) -> None:
    headers = {"task": "shop.pay", "id": "abc", "x-death": [x_death(reason, "pay")]}
    found = letters.read(Properties(headers=headers), b"", "pay.dead")

    assert (found.reason, found.error, found.source, found.time) == (ours, ours, "pay", NOW)


def test_of_the_brokers_entries_the_one_that_led_here_counts() -> None:
    deaths = [x_death("expired", "amqtask.delay.3"), x_death("delivery_limit", "pay")]
    for entries in (deaths, deaths[::-1]):
        found = letters.read(Properties(headers={"x-death": entries}), b"", "pay.dead")

        assert (found.reason, found.source) == ("delivery limit", "pay")
        assert len(found.broker) == 2


def test_the_later_of_two_stories_counts() -> None:
    later = letters.read(Properties(headers={**OURS, "x-death": [x_death("maxlen", "pay")]}), b"", "pay.dead")  # fmt: skip
    earlier = letters.read(Properties(headers={**OURS, "x-death": [x_death("maxlen", "q", 3)]}), b"", "pay.dead")  # fmt: skip

    assert later.reason == "overflow"
    assert earlier.reason == "failure"
    assert earlier.broker


def test_what_is_no_task_has_an_id_that_stays() -> None:
    one = letters.read(Properties(), b"\xff", "q.dead")
    again = letters.read(Properties(headers={"x-delivery-count": 7}), b"\xff", "q.dead")
    other = letters.read(None, b"\xfe", "q.dead")

    assert one.id == again.id != other.id
    assert (one.task, one.reason, one.source) == (None, "unknown", "q")
    assert letters.read(None, b"", "graveyard").source is None


TREE: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 5, 2**63, 0.5, float("nan"), "", "x", "2026-11-21T10:00:00+00:00", "9999-99", b"\xff", NOW, [], [1], {},
     [{}], [x_death("maxlen", "q")], [{"time": 5, "queue": [], "count": "x"}], {"a": [{"b": b"c"}]}]
)  # fmt: skip
NAMES = st.sampled_from([*OURS, "x-death", "amqtask-dead-rounds", "amqtask-dead-doubt", "other"])


@given(st.dictionaries(NAMES, TREE), st.binary(max_size=50))
def test_nothing_in_a_message_can_break_the_look_at_it(
    headers: dict[str, object], body: bytes
) -> None:
    properties = Properties(headers=headers, content_type="application/json")
    found = letters.read(properties, body, "q.dead")
    known = letters.arguments(properties, body)

    line = letters.exported(found, "q.dead", properties, b"\x00", body)
    assert json.loads(line)["body_base64"] == base64.b64encode(body).decode()
    assert "\n" not in line
    assert known.problem is None or known.hex is not None
    Filter(task="*", error="*", since=NOW).matches(found)
    Groups().add("q.dead", found)


def test_filters() -> None:
    found = letters.read(Properties(headers=OURS), b"", "pay.dead")

    assert Filter().everything
    for good in (
        Filter(),
        Filter(task="shop.*"),
        Filter(error="Value*"),
        Filter(error="failure"),
        Filter(since=NOW - timedelta(hours=2)),
        Filter(ids=frozenset({"abc", "d"})),
        Filter(task="shop.pay", error="ValueError", ids=frozenset({"abc"})),
    ):
        assert good.matches(found), good
    for bad in (
        Filter(task="shop"),
        Filter(task="SHOP.*"),
        Filter(error="Value"),
        Filter(since=NOW),
        Filter(ids=frozenset({"ab"})),
        Filter(task="shop.pay", error="KeyError"),
    ):
        assert not bad.matches(found), bad
    assert not Filter(since=NOW).matches(letters.read(None, b"", "q.dead"))


def test_times() -> None:
    assert letters.parse_since("2h", NOW) == NOW - timedelta(hours=2)
    assert letters.parse_since(" 1.5 d ", NOW) == NOW - timedelta(hours=36)
    assert letters.parse_since("2026-11-01", NOW) == datetime(2026, 11, 1, tzinfo=UTC)
    assert letters.parse_since("2026-11-01T12:00+02:00", NOW) == datetime(2026, 11, 1, 10, tzinfo=UTC)  # fmt: skip
    assert letters.parse_since("999999999w", NOW).year == 1
    for wrong in ("", "yesterday", "-2h", "2y"):
        with pytest.raises(ValueError, match="write how long ago"):
            letters.parse_since(wrong, NOW)


def test_rates() -> None:
    assert letters.parse_rate("50/s") == letters.parse_rate("50") == 50
    assert letters.parse_rate("600/m") == 10
    assert letters.parse_rate("36 / h") == 0.01
    for wrong in ("0/s", "-1/s", "fast", "5/d", ""):
        with pytest.raises(ValueError, match="write it like 50/s"):
            letters.parse_rate(wrong)


def test_groups() -> None:
    groups = Groups()

    def add(task: str | None, exception: str, hours: float | None, text: str, **more: str) -> None:
        time = None if hours is None else NOW - timedelta(hours=hours)
        groups.add("q", Letter(id=text, task=task, reason="failure", exception=exception, message=text, time=time, **more))  # type: ignore[arg-type]  # one of its texts  # fmt: skip

    add("a", "KeyError", 3, "old")
    add("a", "KeyError", 1, "new")
    add("a", "KeyError", 2, "between", doubt="why")
    add("a", "ValueError", None, "x")
    add(None, "", None, "y")
    first, second, third = groups.all()

    assert (first.count, first.message, first.sample, first.doubtful) == (3, "new", "new", 1)
    assert (first.oldest, first.newest) == (NOW - timedelta(hours=3), NOW - timedelta(hours=1))
    assert {(second.task, second.error), (third.task, third.error)} == {("a", "ValueError"), (None, "failure")}  # fmt: skip


def test_arguments_are_decoded_only_where_that_is_safe() -> None:
    plain = Properties(headers=OURS, **JSON)
    pickled = Properties(headers=OURS, content_type="application/x-python-serialize", content_encoding="binary")  # fmt: skip

    good = letters.arguments(plain, b'[[1, "x"], {"k": 2}, {}]')
    assert (good.args, good.kwargs, good.problem) == ([1, "x"], {"k": 2}, None)
    refused = letters.arguments(pickled, b"\x80\x04K\x01.")
    assert refused.problem is not None
    assert refused.hex == "80 04 4b 01 2e"
    assert letters.arguments(None, b"").problem


def test_a_message_with_other_arguments() -> None:
    properties = Properties(headers={**OURS, "argsrepr": "(1,)"}, **JSON)
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([[1], {"a": 2}, embed]).encode()

    changed, new = letters.changed(properties, body, args=[5], task="shop.other", headers=[("h", 1)])  # fmt: skip
    headers = dict(changed.headers or {})

    assert json.loads(new) == [[5], {"a": 2}, embed]
    assert (headers["task"], headers["h"], headers["id"]) == ("shop.other", 1, "abc")
    assert "argsrepr" not in headers
    same, untouched = letters.changed(properties, body, headers=[("h", 1)])
    assert untouched is body
    assert dict(same.headers or {})["argsrepr"] == "(1,)"


def test_a_change_that_makes_no_task_is_refused() -> None:
    properties = Properties(headers=OURS, **JSON)
    changes: list[dict[str, Any]] = [
        {"task": ""},
        {"headers": [("retries", "many")]},
        {"kwargs": {"": object()}},
    ]
    for change in changes:
        with pytest.raises(MessageError):
            letters.changed(properties, b"[[],{},{}]", **change)
    with pytest.raises(MessageError):
        letters.changed(properties, b"{not json", args=[])
    protocol_1 = json.dumps({"task": "t", "id": "1", "args": [], "kwargs": {}}).encode()
    with pytest.raises(MessageError, match="protocol 1"):
        letters.changed(Properties(**JSON), protocol_1, args=[])
