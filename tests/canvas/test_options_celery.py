"""What every message of a workflow says of how it is sent is what Celery's client would send."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import celery
import pytest

import amqtask
from amqtask.canvas.launch import launch

app = amqtask.App("options")
theirs = celery.Celery(
    "theirs", broker="memory://", backend="cache+memory://", set_as_current=False
)


@app.task(name="note")
def note(*values: Any) -> Any:
    """Never run."""
    return values


@theirs.task(name="note")  # type: ignore[untyped-decorator]  # Celery has no types
def their_note(*values: Any) -> Any:
    """Never run."""
    return values


SAID = ("queue", "priority", "expires", "countdown", "time_limit", "soft_time_limit")


def said(options: Any) -> dict[str, Any]:
    """How something is sent; of a moment, that there is one."""
    return {
        name: True if name in ("expires", "countdown") else options[name]
        for name in SAID
        if options.get(name) is not None
    }


def shown(sig: Any) -> Any:
    """A signature that is sent later, as the first of its tasks' numbers and what each says."""
    kind, kwargs = sig.get("subtask_type"), sig["kwargs"]
    if kind in ("chain", "group"):
        return [kind, said(sig["options"]), [shown(each) for each in kwargs["tasks"]]]
    if kind == "chord":
        header = kwargs["header"]
        tasks = header["kwargs"]["tasks"] if isinstance(header, dict) else header
        return [kind, [shown(each) for each in tasks], shown(kwargs["body"])]
    links = {
        name: [shown(each) for each in sig["options"][name]]
        for name in ("link", "link_error")
        if sig["options"].get(name)
    }
    return [list(sig["args"]), said(sig["options"]), links]


def message(args: Any, options: dict[str, Any], embed: dict[str, Any], body: Any) -> str:
    following = {
        name: [shown(each) for each in embed[name]]
        for name in ("chain", "callbacks", "errbacks")
        if embed.get(name)
    }
    return json.dumps(
        [list(args), said(options), following, None if body is None else shown(body)],
        sort_keys=True,
    )


def our_messages(sig: Any, options: dict[str, Any]) -> list[str]:
    made = launch(sig, (), {}, options, strict=True)
    bodies = {barrier.group: barrier.plan["body"] for barrier in made.barriers}
    found = []
    for call in made.calls:
        flow = call.workflow
        chord: Any = flow and flow.chord
        embed = (
            {}
            if flow is None
            else {name: getattr(flow, name) for name in ("chain", "callbacks", "errbacks")}
        )
        body = bodies[chord["options"]["barrier"]] if chord else None
        sent = {name: getattr(call, name, None) for name in SAID} | {
            "countdown": call.eta or call.countdown
        }
        found.append(message(call.args, sent, embed, body))
    return sorted(found)


def their_messages(
    build: Callable[[], Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    found = []

    def send(_producer: Any, _name: str, made: Any, **how: Any) -> None:
        args, _, embed = made.body
        headers = made.headers
        queue = getattr(how.get("queue"), "name", how.get("queue"))
        hard, soft = headers["timelimit"]
        sent = {
            "queue": None if queue == "celery" else queue,
            "priority": how.get("priority"),
            "expires": headers["expires"],
            "countdown": headers["eta"],
            "time_limit": hard,
            "soft_time_limit": soft,
        }
        found.append(message(args, sent, embed, embed.get("chord")))

    monkeypatch.setitem(theirs.amqp.__dict__, "send_task_message", send)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build().apply_async(**options)
    return sorted(found)


def with_links(sig: Any, task: Any) -> Any:
    sig.link(task.si(8).set(queue="links"))
    sig.link_error(task.si(9))
    return sig


def skewed(sig: Any) -> Any:
    sig.skew(1, 2)
    return sig


WORKFLOWS: dict[str, Callable[[Any, Any], Any]] = {
    "chain": lambda lib, t: lib.chain(t.si(1), t.si(2).set(priority=3), t.si(3)),
    "chain, set": lambda lib, t: lib.chain(t.si(1), t.si(2).set(queue="b")).set(queue="a"),
    "group": lambda lib, t: lib.group(t.si(1), t.si(2).set(queue="b", priority=7)),
    "group, set": lambda lib, t: lib.group(t.si(1), t.si(2).set(queue="b")).set(
        queue="a", priority=2
    ),
    "skewed": lambda lib, t: skewed(lib.group(t.si(1), t.si(2))),
    "chord": lambda lib, t: lib.chord([t.si(1), t.si(2).set(queue="b")], t.si(3).set(priority=4)),
    "chord, set": lambda lib, t: lib.chord([t.si(1), t.si(2)], t.si(3)).set(queue="a"),
    "group in a chain": lambda lib, t: lib.chain(
        t.si(1), lib.group(t.si(2), t.si(3)).set(queue="g"), t.si(4)
    ),
    "group first": lambda lib, t: lib.chain(lib.group(t.si(2), t.si(3)).set(queue="g"), t.si(4)),
    "chain in a group": lambda lib, t: lib.group(lib.chain(t.si(1), t.si(2)), t.si(3)),
    "chain in a chord": lambda lib, t: lib.chord([lib.chain(t.si(1), t.si(2)), t.si(3)], t.si(4)),
    "chord in a group": lambda lib, t: lib.group(lib.chord([t.si(1)], t.si(2)), t.si(3)),
    "chord in a chord": lambda lib, t: lib.chord([lib.chord([t.si(1)], t.si(2)), t.si(3)], t.si(4)),
    "chord at the end": lambda lib, t: lib.chain(t.si(1), lib.chord([t.si(2)], t.si(3))),
    "body is a group": lambda lib, t: lib.chord([t.si(1)], lib.group(t.si(2), t.si(3))),
    "links": lambda lib, t: with_links(t.si(1), t),
    "links of a chain": lambda lib, t: with_links(lib.chain(t.si(1), t.si(2)), t),
    "links of a chord": lambda lib, t: with_links(lib.chord([t.si(1)], t.si(2)), t),
    "links of a group": lambda lib, t: with_links(lib.group(t.si(1), t.si(2)), t),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"queue": "z"},
    {"priority": 5},
    {"countdown": 10},
    {"expires": 100},
    {"time_limit": 9, "soft_time_limit": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: "-".join(each) or "none")
@pytest.mark.parametrize("kind", WORKFLOWS)
def test_messages_say_what_celerys_say(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = WORKFLOWS[kind]
    ours = our_messages(build(amqtask, note), options)
    assert ours == their_messages(lambda: build(celery, their_note), options, monkeypatch)


def test_a_callback_of_a_chord_that_ends_in_a_group_is_its_first_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = WORKFLOWS["body is a group"]
    ours = our_messages(build(amqtask, note), {"link": note.si(7)})
    assert ours == their_messages(
        lambda: build(celery, their_note), {"link": their_note.si(7)}, monkeypatch
    )
