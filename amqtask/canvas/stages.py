"""Signatures read into *stages*, one after the other: a task, or a fan of branches that run beside each other. Pure.

A chord is a fan that something follows, so ``group | task``, a chord inside a chain and a chord of chords are one thing here.
Signatures are mappings in Celery's form, frozen or not. They are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec

from amqtask.canvas.checks import called, iterable, linkable, sized, well_formed
from amqtask.canvas.checks import part as part_of
from amqtask.canvas.checks import parts as parts_of
from amqtask.canvas.options import (
    DELAYS,
    STRUCTURE,
    how_to_send,
    put_over,
    refuse_unknown,
    shown,
)
from amqtask.core.workflow import MAPS, Sig, kind_of, listed, plain, plain_option

Ids: TypeAlias = Callable[[], str]

Result: TypeAlias = tuple[tuple[str, Any], list[Any] | None]
"""Celery's tuple form: ``((id, parent), None)`` of a task, ``((id, parent), [children])`` of a group; a parent has the same form."""

ACCUMULATE: Final = "celery.accumulate"


class Said(msgspec.Struct, frozen=True, gc=False):
    """What a signature says of the result of a task."""

    name: str
    reply_to: str | None
    ignore_result: bool | None


class Task:
    """A stage of one task: its signature, which is ours to write in."""

    __slots__ = ("options", "sig")

    def __init__(self, sig: dict[str, Any]) -> None:
        self.sig = sig
        self.options: dict[str, Any] = sig["options"]

    @property
    def id(self) -> str:
        """The id of its result."""
        return self.options["task_id"]  # type: ignore[no-any-return]  # a text: written by the reader


class Fan:
    """A stage of branches that run beside each other.

    ``branches`` may be an iterator until they are asked for as a list. ``options`` go to the first of each branch.
    ``chord``: written as a chord, so that it counts even without branches.
    """

    __slots__ = ("branches", "chord", "id", "options")

    def __init__(
        self,
        group_id: str,
        branches: Iterable[list[Stage]],
        options: dict[str, Any],
        chord: bool = False,
    ) -> None:
        self.id = group_id
        self.branches = branches
        self.options = options
        self.chord = chord

    def gathered(self) -> list[list[Stage]]:
        """Its branches as a list: those of a generator are all made."""
        if not isinstance(self.branches, list):
            self.branches = list(self.branches)
        return self.branches

    def each(self, change: Callable[[list[Stage]], None]) -> None:
        """Change every branch, now or when it is made."""
        if isinstance(self.branches, list):
            for branch in self.branches:
                change(branch)
        else:
            self.branches = _changed(self.branches, change)

    @property
    def void(self) -> bool:
        """A group of nothing, which a chain leaves out."""
        return not self.chord and isinstance(self.branches, list) and not self.branches


Stage: TypeAlias = Task | Fan


def _changed(
    branches: Iterable[list[Stage]], change: Callable[[list[Stage]], None]
) -> Iterator[list[Stage]]:
    for branch in branches:
        change(branch)
        yield branch


class Reader:
    """Reads signatures into stages and writes stages as signatures."""

    def __init__(self, ids: Ids, reply_to: str | None, header_errbacks: bool, strict: bool) -> None:
        self._strict = strict
        self._ids = ids
        self._reply_to = reply_to
        self._header_errbacks = header_errbacks
        self.tasks: dict[str, Said] = {}

    def stages(
        self, node: Sig, over: Mapping[str, Any] | None = None, task_id: str | None = None
    ) -> list[Stage]:
        """The stages of a signature.

        Args:
            node: the signature.
            over: options put over its own.
            task_id: of what ends it, when that has none.
        """
        if not isinstance(node, Mapping):
            raise TypeError(f"Here a signature is expected, not {shown(node)}.")
        well_formed(node)
        options = dict(node.get("options") or {})  # type: ignore[call-overload]  # a mapping, in every signature
        if over:
            put_over(
                options,
                {
                    name: value
                    for name, value in over.items()
                    if name in _FROM_CALL or name not in STRUCTURE
                },
            )
        kind = kind_of(node)
        if kind == "task":
            return [self._task(node, options, task_id)]
        task_id = options.get("task_id") or task_id
        if task_id is not None and not isinstance(task_id, str):
            raise TypeError(f"The task_id of a {kind} is a text, not {task_id!r}.")
        if kind == "chain":
            stages = self._chain(node, options, task_id)
        elif kind == "chord":
            return self._chord(node, options, task_id)
        else:
            stages = [self._group(node, options, task_id)]
        if links := self._linked(options, "link"):
            _link(stages, links)
        if errbacks := self._linked(options, "link_error"):
            self._link_error(stages, errbacks)
        return stages

    def _linked(self, options: Mapping[str, Any], name: str) -> list[Any]:
        """The callbacks of what is not one task."""
        links = listed(options.get(name))
        if self._strict:
            for each in links:
                linkable(each, name)
        return links

    def accumulate(self, task_id: object) -> Task:
        """The task that returns what it is given, for a fan that must be one task."""
        sig = {"task": ACCUMULATE, "args": (), "kwargs": {"index": 0}, "options": {}}
        return self._task(sig, {}, None if task_id is None else str(task_id))

    def _task(self, node: Sig, options: dict[str, Any], task_id: str | None) -> Task:
        if not options.get("task_id"):
            options["task_id"] = task_id or self._ids()
        elif not isinstance(options["task_id"], str):
            raise ValueError(
                f"task_id must be a text of 1 to 255 bytes, not {options['task_id']!r}."
            )
        if self._reply_to is not None and not options.get("reply_to"):
            options["reply_to"] = self._reply_to
        for name in ("link", "link_error"):
            if name in options:
                options[name] = listed(options[name])
        if self._strict:
            refuse_unknown(options)
        self.tasks[options["task_id"]] = Said(
            str(node["task"]), options.get("reply_to"), options.get("ignore_result")
        )
        kwargs: Any = node.get("kwargs") or {}
        if node["task"] in MAPS:
            well_formed(called(kwargs.get("task"), str(node["task"])))
            kwargs = {
                **kwargs,
                "task": plain(kwargs.get("task")),
                "it": list(iterable(kwargs.get("it") or (), str(node["task"]))),
            }
        return Task(
            {
                "task": node["task"],
                "args": node.get("args") or (),
                "kwargs": kwargs,
                "options": options,
                "subtask_type": node.get("subtask_type"),
                "immutable": bool(node.get("immutable")),
            }
        )

    def _chain(self, node: Sig, options: dict[str, Any], task_id: str | None) -> list[Stage]:
        parts: list[list[Stage]] = []  # the last first, which is where the chain's id belongs
        void: list[Stage] = []
        for each in reversed(list(parts_of(node, "tasks"))):
            part = self.stages(_unrolled(each), None, task_id)
            if len(part) == 1 and isinstance(part[0], Fan) and part[0].void:
                void = part
            elif part:
                parts.append(part)
                task_id = None
        stages = [stage for part in reversed(parts) for stage in part] or void
        if stages:
            first = stages[0]
            give(stages, listed(node.get("args")), {}, bool(node.get("immutable")))
            if sending := how_to_send(options):
                put_over(first.options, sending)
        return stages

    def _group(self, node: Sig, options: dict[str, Any], task_id: str | None) -> Fan:
        members = _chunks(node) if kind_of(node) == "chunks" else parts_of(node, "tasks")
        return self._fan(members or (), task_id or self._ids(), how_to_send(options))

    def _chord(self, node: Sig, options: dict[str, Any], task_id: str | None) -> list[Stage]:
        kwargs: Any = node.get("kwargs") or {}
        header, body = kwargs.get("header"), kwargs.get("body")
        if body is None:
            raise ValueError(
                "This chord has no body; write chord(header, body), or group(header) to run its header alone."
            )
        sending = how_to_send(options)
        own: dict[str, Any] = {}
        group_id = None
        if isinstance(header, Mapping):
            if kind_of(header) == "group":
                well_formed(header)
                own = dict(header.get("options") or {})
                group_id = own.get("task_id")
                errbacks = self._linked(own, "link_error")
                header = parts_of(header, "tasks")
            else:
                errbacks = []
                header = [header]
        else:
            errbacks = []
            header = parts_of(node, "header")
        # A frozen chord has the id of its header, any other one that of its body.
        stages = self.stages(
            body,
            {name: value for name, value in sending.items() if name not in DELAYS},
            None if task_id == group_id else task_id,
        )
        merged = how_to_send(own)
        put_over(merged, sending)
        fan = self._fan(list(header), group_id or self._ids(), merged, chord=True)
        if errbacks:
            fan.each(lambda branch: self._link_error(branch, errbacks))
        given = kwargs.get("kwargs")
        give(
            [fan],
            listed(node.get("args")),
            given if isinstance(given, Mapping) else {},
            bool(node.get("immutable")),
        )
        if not stages:
            raise ValueError("The body of this chord holds nothing to run: an empty chain.")
        if links := self._linked(options, "link"):
            end = stages[-1]
            if len(stages) == 1 and isinstance(end, Fan) and not end.chord:
                # A group has no end of its own: as with ``group.link`` its first member's counts, without its value.
                for branch in end.gathered()[:1]:
                    _link(branch, [{**each, "immutable": True} for each in links])
            else:
                _link(stages, links)
        stages.insert(0, fan)
        if errbacks := self._linked(options, "link_error"):
            self._link_error(stages, errbacks)
        return stages

    def _fan(
        self, members: Iterable[Any], group_id: str, options: dict[str, Any], chord: bool = False
    ) -> Fan:
        branches = self._branches(members, group_id)
        if type(members) in (list, tuple):  # else it makes them as they are asked for
            branches = list(branches)
        return Fan(group_id, branches, options, chord)

    def _branches(self, members: Iterable[Any], group_id: str) -> Iterable[list[Stage]]:
        for index, branch in enumerate(self._flattened(members, {})):
            last = branch[-1]
            if isinstance(last, Task):
                last.options.setdefault("group_id", group_id)
                last.options.setdefault("group_index", index)
            yield branch

    def _flattened(self, members: Iterable[Any], over: Mapping[str, Any]) -> Iterator[list[Stage]]:
        for member in members:
            if isinstance(member, Mapping) and kind_of(member) in ("group", "chunks"):
                well_formed(member)
                options: Any = dict(member.get("options") or {})
                put_over(options, over)
                inner = (
                    _chunks(member) if kind_of(member) == "chunks" else parts_of(member, "tasks")
                )
                links = self._linked(options, "link")
                errbacks = self._linked(options, "link_error")
                for branch in self._flattened(inner, how_to_send(options)):
                    _link(branch, links)
                    self._link_error(branch, errbacks)
                    yield branch
            elif branch := self.stages(member, over):
                yield branch

    def _link_error(self, stages: list[Stage], errbacks: Sequence[Any]) -> None:
        """Have an errback hear of everything here: of each task, but of a chord's header by its body alone."""
        if not errbacks:
            return
        for at, stage in enumerate(stages):
            if isinstance(stage, Task):
                _append(stage.options, "link_error", errbacks)
            elif at == len(stages) - 1:
                stage.each(lambda branch: self._link_error(branch, errbacks))
            elif self._header_errbacks:
                muted = [{**each, "immutable": True} for each in errbacks]
                stage.each(lambda branch, muted=muted: self._link_error(branch, muted))  # type: ignore[misc]
            else:
                stage.each(lambda branch: self._link_error_of_chord(branch, errbacks))

    def _link_error_of_chord(self, branch: list[Stage], errbacks: Sequence[Any]) -> None:
        if isinstance(branch[0], Fan) and branch[0].chord:
            self._link_error(branch, errbacks)

    # ------------------------------------------------------------ writing

    def wired(self, stages: Sequence[Stage], follows: Sequence[Any]) -> list[Any]:
        """Stages, and what follows them, as a message carries them: signatures, last first."""
        made = list(follows)
        for stage in reversed(stages):
            if isinstance(stage, Task):
                made.append(plain(stage.sig))
            elif not made:
                made.append(self._group_of(stage))
            else:
                body = made.pop()
                made.append(
                    {
                        "task": "celery.chord",
                        "args": (),
                        "kwargs": {"kwargs": {}, "header": self._group_of(stage), "body": body},
                        "options": {"task_id": stage.id},
                        "subtask_type": "chord",
                        "immutable": False,
                    }
                )
        return made

    def _group_of(self, fan: Fan) -> dict[str, Any]:
        return {
            "task": "celery.group",
            "args": (),
            "kwargs": {"tasks": [self._branch_of(branch) for branch in fan.gathered()]},
            "options": {
                **{name: plain_option(v) for name, v in fan.options.items()},
                "task_id": fan.id,
            },
            "subtask_type": "group",
            "immutable": False,
        }

    def _branch_of(self, branch: list[Stage]) -> Any:
        made = self.wired(branch, ())
        last = made[0]
        if last["subtask_type"] == "group":
            if len(last["kwargs"]["tasks"]) == 1:
                last["kwargs"][_WHOLE] = True
        elif len(made) == 1:
            return last
        return {  # also around a group alone, which would be flattened
            "task": "celery.chain",
            "args": (),
            "kwargs": {"tasks": made[::-1]},
            "options": {},
            "subtask_type": "chain",
            "immutable": False,
        }


# What a call may say of the structure, and a signature takes for its own.
_FROM_CALL: Final = frozenset({"task_id", "link", "link_error"})


# In a message: of a group in a chain, that its value is a list although it has one member only, as that of ``chunks``.
_WHOLE: Final = "whole"


def _unrolled(member: Any) -> Any:
    """The only member of a group in a chain, which it then is; the group's options come with it."""
    if not isinstance(member, Mapping) or kind_of(member) != "group":
        return member
    kwargs = member.get("kwargs")
    if isinstance(kwargs, Mapping) and kwargs.get(_WHOLE):
        return member
    found = list(islice(_members(member, {}), 2))
    if len(found) != 1 or not isinstance(found[0][0], Mapping):
        return member
    sig, over = found[0]
    only = dict(sig)
    if over:
        only["options"] = dict(only.get("options") or {})
        put_over(only["options"], over)
    return only


def _members(
    group: Mapping[str, Any], over: Mapping[str, Any]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The members of a group and of the groups in it, each with the options that it gets from these."""
    well_formed(group)
    options = how_to_send(group.get("options") or {})
    put_over(options, over)
    for member in parts_of(group, "tasks"):
        kind = kind_of(member) if isinstance(member, Mapping) else ""
        if kind == "group":
            yield from _members(member, options)
        elif kind != "chain" or (member.get("kwargs") or {}).get("tasks"):
            yield member, options


def _chunks(node: Sig) -> Iterable[Any]:
    """The signatures that ``chunks`` stands for. Of a list, a list: it can be counted."""
    task, size = part_of(node, "task"), sized(part_of(node, "n"))
    items = iterable(part_of(node, "it"), "chunks")
    if isinstance(items, (list, tuple)) and type(items) in (list, tuple):
        return [_starmap(task, items[at : at + size]) for at in range(0, len(items), size)]
    return _chunked(task, items, size)


def _chunked(task: Any, items: Iterable[Any], size: int) -> Iterator[Any]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield _starmap(task, chunk)
            chunk = []
    if chunk:
        yield _starmap(task, chunk)


def _starmap(task: Any, items: Sequence[Any]) -> dict[str, Any]:
    return {
        "task": "celery.starmap",
        "args": (),
        "kwargs": {"task": task, "it": list(items)},
        "options": {},
        "subtask_type": None,
        "immutable": True,
    }


def _append(options: dict[str, Any], name: str, added: Sequence[Any]) -> None:
    known = listed(options.get(name))
    options[name] = known + [each for each in added if each not in known]


def give(stages: list[Stage], args: Sequence[Any], kwargs: Mapping[str, Any], mute: bool) -> None:
    """Put arguments before those of whatever runs first; ``mute``: it then takes no more."""
    if not args and not kwargs and not mute:
        return
    first = stages[0]
    if isinstance(first, Fan):
        first.each(lambda branch: give(branch, args, kwargs, mute))
        return
    sig = first.sig
    if not sig["immutable"]:
        sig["args"] = (*args, *sig["args"])
        sig["kwargs"] = {**sig["kwargs"], **kwargs}
        sig["immutable"] = mute


def _link(stages: list[Stage], callbacks: Sequence[Any]) -> None:
    """Have a callback follow the end of these stages."""
    last = stages[-1]
    if isinstance(last, Task):
        _append(last.options, "link", callbacks)
    else:
        last.each(lambda branch: _link(branch, callbacks))


def first_task(sig: Any) -> Sig | None:
    """The task that runs first of a signature; ``None`` when there is none."""
    while isinstance(sig, Mapping) and (kind := kind_of(sig)) != "task":
        kwargs = sig.get("kwargs") or {}
        if kind == "chord":
            sig = kwargs.get("body")
        else:
            members = kwargs.get("tasks")
            sig = members[0] if isinstance(members, (list, tuple)) and members else None
    return sig if isinstance(sig, Mapping) else None


def _first_id(branches: Sequence[list[Stage]]) -> str | None:
    for branch in branches:
        first = branch[0]
        found = first.id if isinstance(first, Task) else _first_id(first.gathered())
        if found is not None:
            return found
    return None


def result_of(stages: Sequence[Stage]) -> Result:
    """The result of stages: the last one's, whose parent is the one before it."""
    made: Result | None = None
    for stage in stages:
        if isinstance(stage, Task):
            made = ((stage.id, made), None)
        else:
            made = ((stage.id, made), [result_of(branch) for branch in stage.gathered()])
    assert made is not None
    return made
