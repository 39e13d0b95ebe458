"""Calls and barriers of the stages of a workflow: what is sent now, and what travels with it to be sent later. Pure.

The first stage is sent now; what follows a task travels in its message (Celery's ``chain``, last first), what follows a fan waits
in its barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from amqtask.call import Call, make_call
from amqtask.canvas.options import (
    CELERYS,
    DELAYS,
    PLACE,
    SENT,
    STRUCTURE,
    moment_of,
    put_off,
    put_over,
)
from amqtask.canvas.stages import Fan, Reader, Stage, Task, result_of
from amqtask.core.workflow import (
    LEAF,
    MAPS,
    Barrier,
    Workflow,
    kind_of,
    leaf_header,
    listed,
    plain,
)

Defaults: TypeAlias = Callable[[str], Mapping[str, Any]]


def no_defaults(_name: str) -> Mapping[str, Any]:
    """``Defaults`` of tasks that have none."""
    return {}


class Sender:
    """Makes calls and barriers of stages."""

    def __init__(
        self,
        reader: Reader,
        root_id: str | None,
        parent_id: str | None,
        defaults: Defaults,
        priority: int | None,
        strict: bool,
    ) -> None:
        self._reader = reader
        self._root_id = root_id
        self._parent_id = parent_id
        self._defaults = defaults
        self._priority = priority
        self._strict = strict

    def emit(
        self,
        stages: list[Stage],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        follows: Sequence[Any],
        kept: list[Any] | None = None,
        over: Mapping[str, Any] | None = None,
    ) -> Iterator[Barrier | Call]:
        """What the first stage comes to, with what follows it.

        Args:
            stages: at least one.
            args: partial arguments.
            kwargs: partial keyword arguments.
            follows: what follows all of the stages, as a message carries it.
            kept: gets the results of the branches.
            over: options put over those of whatever is sent first.
        """
        first = stages[0]
        if isinstance(first, Task):
            yield self._call(
                first, args, kwargs, self._reader.wired(stages[1:], follows), over or {}
            )
            return
        options = dict(first.options)
        if over:
            put_over(options, over)
            if first.chord and len(stages) > 1:
                _put_over_body(stages[1:], over)
        if len(stages) == 1 and not follows:
            for branch in first.branches:
                if kept is not None:
                    kept.append(result_of(branch))
                yield from self.emit(branch, args, kwargs, (), None, options)
            return
        rest = self._reader.wired(stages[1:], follows)
        body = rest.pop()
        branches = first.gathered()
        stub: dict[str, Any] = {}
        leaves: list[Task] = []
        shape = [_bind(branch, first.id, stub, leaves) for branch in branches]
        if leaves:
            stub.update(_stub(body, first.id, len(leaves)))
            body = self._inheriting(body)
            yield Barrier(
                first.id,
                len(leaves),
                {
                    "body": body,
                    "chain": rest,
                    "shape": None if shape == list(range(len(leaves))) else shape,
                    "root_id": self._root_id or _first_id(branches),
                    "parent_id": leaves[-1].id,
                },
                _delay(branches, options),
            )
        for branch in branches:
            yield from self.emit(branch, args, kwargs, (), None, options)
        if not leaves:  # nobody will ever report to a barrier
            yield from self.emit(self._reader.stages(body), ([*shape],), {}, rest)

    def _inheriting(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a chord, with the priority of what starts the chord unless it has one."""
        options = body["options"]
        if (
            self._priority is None
            or kind_of(body) != "task"
            or options.get("priority") is not None
            or self._defaults(body["task"]).get("priority") is not None
        ):
            return body
        return {**body, "options": {**options, "priority": self._priority}}

    def _call(
        self,
        task: Task,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        rest: list[Any],
        over: Mapping[str, Any],
    ) -> Call:
        sig = task.sig
        options = task.options
        if over:
            options = dict(options)
            put_over(options, over)
        own_args: Sequence[object] = sig["args"]
        own_kwargs: Mapping[str, object] = sig["kwargs"]
        if not sig["immutable"]:
            if args:
                own_args = (*args, *own_args)
            if kwargs:
                own_kwargs = {**own_kwargs, **kwargs}
        stamped = options.get("stamped_headers")
        stamps = {name: options[name] for name in stamped or () if name in options}
        workflow = Workflow(
            root_id=self._root_id or options.get("root_id"),
            parent_id=self._parent_id or options.get("parent_id"),
            group=options.get("group_id"),
            group_index=options.get("group_index"),
            callbacks=[plain(each) for each in options.get("link") or ()] or None,
            errbacks=[plain(each) for each in options.get("link_error") or ()] or None,
            chain=[*rest, *map(plain, listed(options.get("chain")))] or None,
            chord=options.get("chord"),
            replaced_task_nesting=options.get("replaced_task_nesting") or 0,
            stamped_headers=list(stamped) if stamped is not None else None,
            stamps=stamps or None,
        )
        name: str = sig["task"]
        inner = sig["kwargs"].get("task") if name in MAPS else None
        route_name = inner.get("task") if isinstance(inner, Mapping) else None
        defaults = self._defaults(name)
        if isinstance(route_name, str):
            # It runs that task itself, so it goes where that would.
            place = {k: v for k, v in self._defaults(route_name).items() if k in PLACE}
            defaults = {**defaults, **place}
        sending = self._checked(options, stamps)
        if self._priority is not None and defaults.get("priority") is None:
            sending.setdefault("priority", self._priority)
        if workflow.chord is None and (leaf := leaf_header(workflow.chain or ())):
            sending["headers"] = {**(sending.get("headers") or {}), LEAF: leaf}
        sending["task_id"] = task.id
        return make_call(
            name,
            own_args,
            own_kwargs,
            defaults,
            sending,
            workflow=None if workflow == _NO_WORKFLOW else workflow,
            route_name=route_name,
        )

    def _checked(self, options: Mapping[str, Any], stamps: Mapping[str, Any]) -> dict[str, Any]:
        """The options that ``make_call`` is given; it refuses those that it does not know."""
        sending: dict[str, Any] = {}
        for name, value in options.items():
            if value is None or name in STRUCTURE or name in stamps:
                continue
            if name in SENT:
                sending[name] = moment_of(value) if name in ("eta", "expires") else value
            elif self._strict and name not in CELERYS:
                sending[name] = value
        return sending


_NO_WORKFLOW: Final = Workflow()


def _put_over_body(stages: Sequence[Stage], over: Mapping[str, Any]) -> None:
    """Put the options of what surrounds a chord over its body's, but for its delay, which is that of the parts."""
    sending = {name: value for name, value in over.items() if name not in DELAYS}
    while sending:
        first = stages[0]
        put_over(first.options, sending)
        stages = stages[1:]
        if not (isinstance(first, Fan) and first.chord and stages):
            return


def _bind(branch: list[Stage], group_id: str, stub: dict[str, Any], leaves: list[Task]) -> Any:
    """Make the end of a branch a part of a chord, or several parts; return the shape of its value in indices."""
    last = branch[-1]
    if isinstance(last, Task):
        last.options.update(group_id=group_id, group_index=len(leaves), chord=stub)
        leaves.append(last)
        return last.options["group_index"]
    return [_bind(each, group_id, stub, leaves) for each in last.gathered()]


def _delay(branches: Iterable[list[Stage]], over: Mapping[str, Any]) -> float:
    """For how many seconds the slowest of these branches is put off in all; ``over`` is put over what each begins with."""
    longest = 0.0
    for branch in branches:
        whole = 0.0
        for stage in branch:
            options = {**stage.options, **over} if stage is branch[0] else stage.options
            if isinstance(stage, Fan):
                whole += _delay(stage.gathered(), options)
            else:
                whole += put_off(options)
        longest = max(longest, whole)
    return longest


def _stub(body: Mapping[str, Any], group_id: str, size: int) -> dict[str, Any]:
    """What a part says of its chord: which barrier it belongs to, and who is behind that."""
    while body.get("subtask_type") == "chord":
        body = body["kwargs"]["body"]
    options = body["options"]
    said = {"task_id": options.get("task_id"), "reply_to": options.get("reply_to")}
    return {
        "task": body["task"],
        "args": [],
        "kwargs": {},
        "options": {**{name: v for name, v in said.items() if v is not None}, "barrier": group_id},
        "subtask_type": None,
        "immutable": False,
        "chord_size": size,
    }


def _first_id(branches: Sequence[list[Stage]]) -> str | None:
    for branch in branches:
        first = branch[0]
        found = first.id if isinstance(first, Task) else _first_id(first.gathered())
        if found is not None:
            return found
    return None
