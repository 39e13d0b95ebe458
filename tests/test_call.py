"""A call: options merged and checked, ids, expiry, the message."""

from __future__ import annotations

import math
import os
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from amqtask.call import Call, SendOptions, due_at, expires_at, make_call, message_of, new_id
from amqtask.core.message import Message
from amqtask.core.workflow import Workflow
from amqtask.request import Request

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make(options: dict[str, Any], defaults: dict[str, Any] | None = None) -> Call:
    return make_call("t", (1,), None, defaults or {}, options)


def to_message(call: Call, parent: Request | None = None) -> Message:
    return message_of(
        call,
        reply_to="replies",
        priority=4,
        serializer="json",
        compression=None,
        origin="me",
        parent=parent,
        eta=None,
        expires=None,
    )


def test_ids_are_random_uuids_of_version_4() -> None:
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(str(uuid.UUID(each)) == each and uuid.UUID(each).version == 4 for each in ids)
    assert all(uuid.UUID(each).variant == uuid.RFC_4122 for each in ids)


def test_options_of_the_call_come_before_the_tasks_own() -> None:
    call = make({"priority": 3, "time_limit": None}, {"priority": 1, "time_limit": 9.0})

    assert (call.priority, call.time_limit) == (3, 9.0)


@pytest.mark.parametrize("option", [{"queue": "q"}, {"exchange": "e"}, {"routing_key": "k"}])
def test_a_place_replaces_the_tasks_own_place_as_a_whole(option: dict[str, str]) -> None:
    call = make(option, {"queue": "own", "exchange": "own", "routing_key": "own"})

    places = {"queue": call.queue, "exchange": call.exchange, "routing_key": call.routing_key}
    assert {name: value for name, value in places.items() if value is not None} == option


def test_a_lone_value_for_args_is_named_as_the_slip_it_is() -> None:
    with pytest.raises(
        TypeError, match=r"tuple or a list, not int; for one argument write \(value,\)"
    ):
        make_call("t", 42, None, {}, {})  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="not str"):
        make_call("t", "abc", None, {}, {})
    with pytest.raises(TypeError, match="mapping with text keys"):
        make_call("t", (), {1: 2}, {}, {})  # type: ignore[dict-item]  # the mistake under test


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"'priorty'.*Did you mean 'priority'"):
        make({"priorty": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1},
        {"priority": 256},
        {"priority": True},
        {"time_limit": 0},
        {"time_limit": float("inf")},
        {"time_limit": 1, "soft_time_limit": 2},
        {"soft_time_limit": "1"},
        {"expires": math.nan},
        {"expires": 1e300},
        {"countdown": math.nan},
        {"countdown": math.inf},
        {"countdown": -math.inf},
        {"countdown": 1e300},
        {"countdown": 0, "eta": NOW},
        {"expires": datetime(2026, 1, 1)},  # noqa: DTZ001  # the mistake under test
        {"task_id": ""},
        {"task_id": "x" * 256},
        {"task_id": 7},
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(options)


def test_a_tasks_own_limits_beside_those_of_a_call() -> None:
    shorter = make({"time_limit": 2}, {"time_limit": 60, "soft_time_limit": 50})
    assert (shorter.time_limit, shorter.soft_time_limit) == (2, 50)  # the soft one is not reached
    with pytest.raises(ValueError, match=r"soft_time_limit \(9 s\) must not be above"):
        make({"soft_time_limit": 9}, {"time_limit": 5})


@pytest.mark.parametrize(
    "options",
    [
        {"queue": 1},
        {"headers": [1]},
        {"headers": {1: 2}},
        {"expires": "soon"},
        {"countdown": "5"},
        {"countdown": True},
        {"eta": "2026-01-01"},
        {"eta": NOW.date()},
    ],
)
def test_values_of_the_wrong_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        make(options)


@pytest.mark.parametrize(
    "options",
    [{"link": object()}, {"link_error": [1]}],
)
def test_a_callback_that_is_no_signature_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="takes a signature or a list of them"):
        make(options)


def test_callbacks_are_carried_as_plain_signatures() -> None:
    class Signature(dict[str, Any]):
        pass

    one = Signature(task="log", args=(1,), kwargs={}, options={"link": [Signature(task="next")]})
    workflow = make({"link": one, "link_error": [one, one]}).workflow
    assert workflow is not None
    assert workflow.callbacks == [dict(one)]
    assert workflow.errbacks is not None
    assert len(workflow.errbacks) == 2
    (callback,) = workflow.callbacks
    assert type(callback) is dict
    assert type(callback["options"]["link"][0]) is dict


def test_stamps_are_the_options_that_stamped_headers_names() -> None:
    call = make(
        {"stamped_headers": ["customer", "queue"], "customer": ["42"], "queue": 7, "priority": 3}
    )

    assert call.workflow is not None
    assert call.workflow.stamped_headers == ["customer", "queue"]
    assert call.workflow.stamps == {"customer": ["42"], "queue": 7}
    assert (call.queue, call.priority) == (None, 3)
    assert make({"stamped_headers": "one", "one": 1}).workflow == Workflow(
        stamped_headers=["one"], stamps={"one": 1}
    )
    assert make({"stamped_headers": []}).workflow is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"customer": 1}, "got an unexpected option 'customer'"),
        ({"stamped_headers": ["one"], "one": 1, "other": 2}, "got an unexpected option 'other'"),
        (
            {"stamped_headers": ["one"]},
            "was given no 'one', which stamped_headers names; write apply_async",
        ),
        ({"stamped_headers": [1]}, "stamped_headers must be a list of names"),
    ],
)
def test_stamps_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        make(options)


@pytest.mark.parametrize("options", [{"countdown": 0}, {"eta": None}, {"link": []}, {"link": None}])
def test_what_asks_for_nothing_is_accepted(options: dict[str, Any]) -> None:
    assert make(options).args == (1,)


def test_every_option_is_known_to_the_call() -> None:
    later = {"link", "link_error", "task_id", "add_to_parent", "stamped_headers"}

    assert set(SendOptions.__annotations__) - later == set(Call.__struct_fields__) - {
        "id", "task", "args", "kwargs", "defaults", "workflow", "route_name", "trail",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expires", "text"),
    [
        (60, "2026-01-02T03:05:05.000000+00:00"),
        (0.5, "2026-01-02T03:04:05.500000+00:00"),
        (timedelta(days=1), "2026-01-03T03:04:05.000000+00:00"),
        (NOW, "2026-01-02T03:04:05.000000+00:00"),
        (None, None),
    ],
)
def test_expiry_as_it_travels(expires: Any, text: str | None) -> None:
    assert expires_at(expires, NOW) == text


def test_expiry_outside_the_calendar() -> None:
    with pytest.raises(ValueError, match="calendar"):
        expires_at(timedelta(days=999_999_999), NOW)


@pytest.mark.parametrize(
    ("countdown", "eta", "text", "delay"),
    [
        (60, None, "2026-01-02T03:05:05.000000+00:00", 60.0),
        (0.05, None, "2026-01-02T03:04:05.050000+00:00", 0.05),
        (timedelta(minutes=1), None, "2026-01-02T03:05:05.000000+00:00", 60.0),
        (0, None, None, 0.0),
        (-5, None, None, 0.0),
        (timedelta(days=-999_999_999), None, None, 0.0),
        (None, NOW + timedelta(seconds=2.5), "2026-01-02T03:04:07.500000+00:00", 2.5),
        (None, NOW - timedelta(days=1), "2026-01-01T03:04:05.000000+00:00", 0.0),
        (None, datetime.min.replace(tzinfo=UTC), "0001-01-01T00:00:00.000000+00:00", 0.0),
        # another zone: kept as written
        (None, datetime(2026, 1, 2, 5, 4, 6, tzinfo=timezone(timedelta(hours=2))),
         "2026-01-02T05:04:06.000000+02:00", 1.0),
        # without a zone: UTC
        (None, datetime(2026, 1, 2, 3, 4, 9), "2026-01-02T03:04:09.000000+00:00", 4.0),  # noqa: DTZ001  # what is under test
        (None, None, None, 0.0),
    ],
)  # fmt: skip
def test_when_a_call_is_due(countdown: Any, eta: Any, text: str | None, delay: float) -> None:
    assert due_at(countdown, eta, NOW) == (text, delay)


def test_the_last_moment_of_the_calendar_can_be_waited_for() -> None:
    assert due_at(None, datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), NOW)[1] > 1e11
    with pytest.raises(ValueError, match="countdown lies outside the calendar"):
        due_at(timedelta(days=999_999_999), None, NOW)


def test_a_task_nobody_started_is_its_own_root() -> None:
    message = to_message(make({"task_id": "a"}))

    assert (message.root_id, message.parent_id, message.correlation_id) == ("a", None, "a")


def test_a_task_sent_by_a_task_belongs_to_it() -> None:
    message = to_message(make({"task_id": "a"}), Request(id="p", root_id="r"))

    assert (message.root_id, message.parent_id) == ("r", "p")


def test_the_calls_own_reply_address_comes_first() -> None:
    assert to_message(make({})).reply_to == "replies"
    assert to_message(make({"reply_to": "other"})).reply_to == "other"


def test_ids_are_random_uuids_each_handed_out_once_in_every_process() -> None:
    ids = [new_id() for _ in range(500)]
    parsed = [uuid.UUID(made) for made in ids]
    assert {(one.version, one.variant) for one in parsed} == {(4, uuid.RFC_4122)}
    assert [str(one) for one in parsed] == ids
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 36 * 100).decode()
    theirs = [told[at : at + 36] for at in range(0, len(told), 36)]
    for descriptor in (reading, writing):
        os.close(descriptor)
    assert len({*ids, *theirs, *(new_id() for _ in range(100))}) == 700
