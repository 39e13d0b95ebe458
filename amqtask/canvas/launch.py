"""What to publish for a signature: pure code that makes calls, and chords to be, of a workflow.

A signature is read into *stages*, one after the other: a task, or a fan of branches that run beside each other, each of them
stages again. A chord is a fan that something follows, so ``group | task``, a chord inside a chain and a chord of chords are
one thing here. The first stage is sent now; what follows a task travels in its message (Celery's ``chain``, last first), what
follows a fan waits in its barrier. Nothing is said twice: a message grows with the work that remains and with nothing else.

Signatures are mappings in Celery's form, frozen or not. They are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec

from amqtask.call import Call, SendOptions, make_call, new_id, unexpected
from amqtask.core.workflow import (
    MAPS,
    Barrier,
    Sig,
    Workflow,
    kind_of,
    listed,
    plain,
    plain_option,
)

Ids: TypeAlias = Callable[[], str]
Defaults: TypeAlias = Callable[[str], Mapping[str, Any]]

Result: TypeAlias = tuple[tuple[str, Any], list[Any] | None]
"""Celery's tuple form: ``((id, parent), None)`` of a task, ``((id, parent), [children])`` of a group; a parent has the same form."""

ACCUMULATE: Final = "celery.accumulate"


class Launch(msgspec.Struct, frozen=True):
    """What a signature comes to. The barriers must be in place before the first of the calls is sent."""

    barriers: Sequence[Barrier]
    calls: Sequence[Call]
    result: Result


class Said(msgspec.Struct, frozen=True, gc=False):
    """What a signature says of the result of a task."""

    name: str
    reply_to: str | None
    ignore_result: bool | None


class Stream(msgspec.Struct, frozen=True):
    """``Launch`` for what is too long to be held: every barrier comes before the calls that need it.

    ``result`` is complete when ``steps`` has ended: the children of a group are appended as they are made.

    ``tasks`` fills meanwhile: what its signature says of each task, by id.
    ``lazy``: it comes from a generator, so that somebody may want it to be sent while it is made.
    """

    steps: Iterator[Barrier | Call]
    result: Result
    tasks: Mapping[str, Said]
    lazy: bool


def launch(
    sig: Sig,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    *,
    root_id: str | None = None,
    parent_id: str | None = None,
    reply_to: str | None = None,
    ids: Ids = new_id,
    defaults: Defaults | None = None,
    priority: int | None = None,
    header_errbacks: bool = False,
    strict: bool = False,
) -> Launch:
    """Compile a signature.

    Args:
        sig: the signature; ids that it has are kept, whoever has none gets one.
        args: partial arguments, put before those of whatever runs first.
        kwargs: partial keyword arguments.
        options: as ``apply_async`` takes them, and how the whole goes on: ``chain`` (what follows, as a message carries it:
            frozen, last first), ``chord`` with ``group_id`` and ``group_index`` (the part of a chord that its end is),
            ``replaced_task_nesting``.
        root_id: the workflow's; ``None`` where this begins one.
        parent_id: the task that sends.
        reply_to: where the results go of everything that does not say so itself.
        ids: makes ids; the order of its calls depends on the signature alone.
        defaults: the options of a task by its name, a subset of the fields of ``Call``.
        priority: for what names none.
        header_errbacks: whether the errback of a chord is also one of each part (``task_allow_error_cb_on_chord_header``).
        strict: refuse options that nobody knows, as a caller's mistake; what comes by message is taken as it is.

    Raises:
        TypeError, ValueError: the signature makes no sense, or an option does not.
    """
    made = stream(
        sig,
        args,
        kwargs,
        options,
        root_id=root_id,
        parent_id=parent_id,
        reply_to=reply_to,
        ids=ids,
        defaults=defaults,
        priority=priority,
        header_errbacks=header_errbacks,
        strict=strict,
    )
    barriers: list[Barrier] = []
    calls: list[Call] = []
    for step in made.steps:
        if isinstance(step, Call):
            calls.append(step)
        else:
            barriers.append(step)
    return Launch(barriers, calls, only_child(made.result))


def stream(
    sig: Sig,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    *,
    root_id: str | None = None,
    parent_id: str | None = None,
    reply_to: str | None = None,
    ids: Ids = new_id,
    defaults: Defaults | None = None,
    priority: int | None = None,
    header_errbacks: bool = False,
    strict: bool = False,
) -> Stream:
    """``launch`` that makes its calls while they are asked for: a group of a generator is never held as a whole.

    Arguments and errors as ``launch``; errors of members come while iterating.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    reader = _Reader(ids, given.pop("reply_to", None) or reply_to, header_errbacks, strict)  # type: ignore[arg-type]  # a text
    stages = reader.stages(sig, given)
    if not stages:
        raise ValueError("This signature holds nothing to run: an empty chain.")
    follows = listed(given.get("chain"))  # plain already: it comes from a message
    chord = given.get("chord")
    if chord is not None and isinstance(stages[-1], _Fan):
        # It is one part, and a fan is as many as it has branches.
        stages.append(reader.accumulate(given.get("task_id")))
    last = stages[-1]
    if isinstance(last, _Task):
        for name in ("group_id", "group_index", "chord"):
            if name in given:
                last.options[name] = given[name]
    first = stages[0]
    if "replaced_task_nesting" in given:
        first.options["replaced_task_nesting"] = given["replaced_task_nesting"]
    sender = _Sender(reader, root_id, parent_id, defaults or _no_defaults, priority, strict)
    kept: list[Any] | None = None
    if len(stages) == 1 and isinstance(first, _Fan) and not follows:
        kept = []  # filled while it is sent: it may be a generator
        result: Result = ((first.id, None), kept)
    else:
        result = _result(stages)
    lazy = kept is not None and isinstance(first, _Fan) and not isinstance(first.branches, list)
    return Stream(
        sender.emit(stages, args, kwargs or {}, follows, kept), result, reader.tasks, lazy
    )


# ---------------------------------------------------------------- reading

# What an option says of the signature's place in a workflow rather than of how it is sent.
_STRUCTURE: Final = frozenset(
    {
        "task_id", "group_id", "group_index", "chord", "root_id", "parent_id", "chain", "link", "link_error",
        "replaced_task_nesting",
    }
)  # fmt: skip
_SENT: Final = frozenset(SendOptions.__annotations__) - _STRUCTURE - {"add_to_parent"}
# Options of Celery's that say nothing here: how its client reaches a broker, and what it notes.
_CELERYS: Final = frozenset(
    {
        "add_to_parent", "app", "connection", "delivery_mode", "exchange_type", "immediate", "interval", "kwargs", "mandatory",
        "max_retries", "producer", "publisher", "result_cls", "retry", "retry_policy", "route_name", "router", "stamped_headers",
        "stamps", "trail",
    }
)  # fmt: skip
_DELAYS: Final = frozenset({"countdown", "eta"})
PLACE: Final = frozenset({"queue", "exchange", "routing_key", "priority"})


def _over(own: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Put the options of what surrounds a signature over its own. Stamps that it has are its own for good."""
    fixed: set[str] = set()
    if own.get("stamped_headers") is not None:
        theirs = others.get("stamped_headers") or ()
        fixed = {"stamped_headers", *own["stamped_headers"], *theirs}
    own.update({name: value for name, value in others.items() if name not in fixed})


def _sending(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how to send, stamps among them."""
    return {
        name: value
        for name, value in options.items()
        if name not in _STRUCTURE and name != "reply_to" and value is not None
    }


class _Task:
    """A stage of one task: its signature, which is ours to write in."""

    __slots__ = ("options", "sig")

    def __init__(self, sig: dict[str, Any]) -> None:
        self.sig = sig
        self.options: dict[str, Any] = sig["options"]

    @property
    def id(self) -> str:
        return self.options["task_id"]  # type: ignore[no-any-return]  # a text: written by the reader


class _Fan:
    """A stage of branches that run beside each other.

    ``branches`` may be an iterator until they are asked for as a list. ``options`` go to the first of each branch.
    ``chord``: written as a chord, so that it counts even without branches.
    """

    __slots__ = ("branches", "chord", "id", "options")

    def __init__(
        self,
        group_id: str,
        branches: Iterable[list[_Stage]],
        options: dict[str, Any],
        chord: bool = False,
    ) -> None:
        self.id = group_id
        self.branches = branches
        self.options = options
        self.chord = chord

    def gathered(self) -> list[list[_Stage]]:
        if not isinstance(self.branches, list):
            self.branches = list(self.branches)
        return self.branches

    def each(self, change: Callable[[list[_Stage]], None]) -> None:
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


_Stage: TypeAlias = _Task | _Fan


def _changed(
    branches: Iterable[list[_Stage]], change: Callable[[list[_Stage]], None]
) -> Iterator[list[_Stage]]:
    for branch in branches:
        change(branch)
        yield branch


class _Reader:
    """Reads signatures into stages and writes stages as signatures."""

    def __init__(self, ids: Ids, reply_to: str | None, header_errbacks: bool, strict: bool) -> None:
        self._strict = strict
        self._ids = ids
        self._reply_to = reply_to
        self._header_errbacks = header_errbacks
        self.tasks: dict[str, Said] = {}

    def stages(
        self, node: Sig, over: Mapping[str, Any] | None = None, task_id: str | None = None
    ) -> list[_Stage]:
        """The stages of a signature.

        Args:
            node: the signature.
            over: options put over its own.
            task_id: of what ends it, when that has none.
        """
        if not _is_signature(node):
            raise TypeError(f"Here a signature is expected, not {_shown(node)}.")
        options = dict(node.get("options") or {})  # type: ignore[call-overload]  # a mapping, in every signature
        if over:
            _over(
                options,
                {
                    name: value
                    for name, value in over.items()
                    if name in _FROM_CALL or name not in _STRUCTURE
                },
            )
        kind = kind_of(node)
        if kind == "task":
            return [self._task(node, options, task_id)]
        task_id = options.get("task_id") or task_id
        if kind == "chain":
            stages = self._chain(node, options, task_id)
        elif kind == "chord":
            return self._chord(node, options, task_id)
        else:
            stages = [self._group(node, options, task_id)]
        if links := listed(options.get("link")):
            _link(stages, links)
        if errbacks := listed(options.get("link_error")):
            self._link_error(stages, errbacks)
        return stages

    def accumulate(self, task_id: object) -> _Task:
        """The task that returns what it is given, for a fan that must be one task."""
        sig = {"task": ACCUMULATE, "args": (), "kwargs": {"index": 0}, "options": {}}
        return self._task(sig, {}, None if task_id is None else str(task_id))

    def _task(self, node: Sig, options: dict[str, Any], task_id: str | None) -> _Task:
        if not options.get("task_id"):
            options["task_id"] = task_id or self._ids()
        if self._reply_to is not None and not options.get("reply_to"):
            options["reply_to"] = self._reply_to
        for name in ("link", "link_error"):
            if name in options:
                options[name] = listed(options[name])
        if self._strict:
            _refuse_unknown(options)
        self.tasks[options["task_id"]] = Said(
            str(node["task"]), options.get("reply_to"), options.get("ignore_result")
        )
        kwargs: Any = node.get("kwargs") or {}
        if node["task"] in MAPS:
            kwargs = {
                **kwargs,
                "task": plain(kwargs.get("task")),
                "it": list(kwargs.get("it") or ()),
            }
        return _Task(
            {
                "task": node["task"],
                "args": node.get("args") or (),
                "kwargs": kwargs,
                "options": options,
                "subtask_type": node.get("subtask_type"),
                "immutable": bool(node.get("immutable")),
            }
        )

    def _chain(self, node: Sig, options: dict[str, Any], task_id: str | None) -> list[_Stage]:
        kwargs: Any = node.get("kwargs") or {}
        parts: list[list[_Stage]] = []  # the last first, which is where the chain's id belongs
        void: list[_Stage] = []
        for each in reversed(list(kwargs.get("tasks") or ())):
            part = self.stages(_unrolled(each), None, task_id)
            if len(part) == 1 and isinstance(part[0], _Fan) and part[0].void:
                void = part
            elif part:
                parts.append(part)
                task_id = None
        stages = [stage for part in reversed(parts) for stage in part] or void
        if stages:
            first = stages[0]
            _give(stages, listed(node.get("args")), {}, bool(node.get("immutable")))
            if sending := _sending(options):
                _over(first.options, sending)
        return stages

    def _group(self, node: Sig, options: dict[str, Any], task_id: str | None) -> _Fan:
        kwargs: Any = node.get("kwargs") or {}
        members = kwargs.get("tasks")
        if kind_of(node) == "chunks":
            members = _chunks(kwargs["task"], kwargs["it"], int(kwargs["n"]))
        return self._fan(members or (), task_id or self._ids(), _sending(options))

    def _chord(self, node: Sig, options: dict[str, Any], task_id: str | None) -> list[_Stage]:
        kwargs: Any = node.get("kwargs") or {}
        header, body = kwargs.get("header"), kwargs.get("body")
        if body is None:
            raise ValueError(
                "This chord has no body; write chord(header, body), or group(header) to run its header alone."
            )
        sending = _sending(options)
        own: dict[str, Any] = {}
        group_id = None
        if isinstance(header, Mapping):
            if kind_of(header) == "group":
                own = dict(header.get("options") or {})
                group_id = own.get("task_id")
                errbacks = listed(own.get("link_error"))
                header = (header.get("kwargs") or {}).get("tasks")
            else:
                errbacks = []
                header = [header]
        else:
            errbacks = []
        # A frozen chord has the id of its header, any other one that of its body.
        stages = self.stages(
            body,
            {name: value for name, value in sending.items() if name not in _DELAYS},
            None if task_id == group_id else task_id,
        )
        merged = _sending(own)
        _over(merged, sending)
        fan = self._fan(list(header or ()), group_id or self._ids(), merged, chord=True)
        if errbacks:
            fan.each(lambda branch: self._link_error(branch, errbacks))
        given = kwargs.get("kwargs")
        _give(
            [fan],
            listed(node.get("args")),
            given if isinstance(given, Mapping) else {},
            bool(node.get("immutable")),
        )
        if not stages:
            raise ValueError("The body of this chord holds nothing to run: an empty chain.")
        if links := listed(options.get("link")):
            _link(stages, links)
        stages.insert(0, fan)
        if errbacks := listed(options.get("link_error")):
            self._link_error(stages, errbacks)
        return stages

    def _fan(
        self, members: Iterable[Any], group_id: str, options: dict[str, Any], chord: bool = False
    ) -> _Fan:
        branches = self._branches(members, group_id)
        if type(members) in (list, tuple):  # else it makes them as they are asked for
            branches = list(branches)
        return _Fan(group_id, branches, options, chord)

    def _branches(self, members: Iterable[Any], group_id: str) -> Iterable[list[_Stage]]:
        for index, branch in enumerate(self._flattened(members, {})):
            last = branch[-1]
            if isinstance(last, _Task):
                last.options.setdefault("group_id", group_id)
                last.options.setdefault("group_index", index)
            yield branch

    def _flattened(self, members: Iterable[Any], over: Mapping[str, Any]) -> Iterator[list[_Stage]]:
        for member in members:
            if isinstance(member, Mapping) and kind_of(member) in ("group", "chunks"):
                options: Any = dict(member.get("options") or {})
                _over(options, over)
                kwargs: Any = member.get("kwargs") or {}
                inner = (
                    _chunks(kwargs["task"], kwargs["it"], int(kwargs["n"]))
                    if kind_of(member) == "chunks"
                    else kwargs.get("tasks") or ()
                )
                links, errbacks = listed(options.get("link")), listed(options.get("link_error"))
                for branch in self._flattened(inner, _sending(options)):
                    _link(branch, links)
                    self._link_error(branch, errbacks)
                    yield branch
            elif branch := self.stages(member, over):
                yield branch

    def _link_error(self, stages: list[_Stage], errbacks: Sequence[Any]) -> None:
        """Have an errback hear of everything here: of each task, but of a chord's header by its body alone."""
        if not errbacks:
            return
        for at, stage in enumerate(stages):
            if isinstance(stage, _Task):
                _append(stage.options, "link_error", errbacks)
            elif at == len(stages) - 1:
                stage.each(lambda branch: self._link_error(branch, errbacks))
            elif self._header_errbacks:
                muted = [{**each, "immutable": True} for each in errbacks]
                stage.each(lambda branch, muted=muted: self._link_error(branch, muted))  # type: ignore[misc]
            else:
                stage.each(lambda branch: self._link_error_of_chord(branch, errbacks))

    def _link_error_of_chord(self, branch: list[_Stage], errbacks: Sequence[Any]) -> None:
        if isinstance(branch[0], _Fan) and branch[0].chord:
            self._link_error(branch, errbacks)

    # ------------------------------------------------------------ writing

    def wired(self, stages: Sequence[_Stage], follows: Sequence[Any]) -> list[Any]:
        """Stages, and what follows them, as a message carries them: signatures, last first."""
        made = list(follows)
        for stage in reversed(stages):
            if isinstance(stage, _Task):
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

    def _group_of(self, fan: _Fan) -> dict[str, Any]:
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

    def _branch_of(self, branch: list[_Stage]) -> Any:
        made = self.wired(branch, ())
        if len(made) == 1 and made[0]["subtask_type"] != "group":
            return made[0]
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


def _unrolled(member: Any) -> Any:
    """The only member of a group in a chain, which it then is; the group's options come with it."""
    if not isinstance(member, Mapping) or kind_of(member) != "group":
        return member
    found = list(islice(_members(member, {}), 2))
    if len(found) != 1 or not isinstance(found[0][0], Mapping):
        return member
    sig, over = found[0]
    only = dict(sig)
    if over:
        only["options"] = dict(only.get("options") or {})
        _over(only["options"], over)
    return only


def _members(
    group: Mapping[str, Any], over: Mapping[str, Any]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The members of a group and of the groups in it, each with the options that it gets from these."""
    options = _sending(group.get("options") or {})
    _over(options, over)
    for member in (group.get("kwargs") or {}).get("tasks") or ():
        kind = kind_of(member) if isinstance(member, Mapping) else ""
        if kind == "group":
            yield from _members(member, options)
        elif kind != "chain" or member["kwargs"].get("tasks"):
            yield member, options


def _chunks(task: Any, items: Iterable[Any], size: int) -> Iterable[Any]:
    """The signatures that ``chunks`` stands for. Of a list, a list: it can be counted."""
    if size < 1:
        raise ValueError(f"chunks takes a size of at least 1, not {size}.")
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


def _give(stages: list[_Stage], args: Sequence[Any], kwargs: Mapping[str, Any], mute: bool) -> None:
    """Put arguments before those of whatever runs first; ``mute``: it then takes no more."""
    if not args and not kwargs and not mute:
        return
    first = stages[0]
    if isinstance(first, _Fan):
        first.each(lambda branch: _give(branch, args, kwargs, mute))
        return
    sig = first.sig
    if not sig["immutable"]:
        sig["args"] = (*args, *sig["args"])
        sig["kwargs"] = {**sig["kwargs"], **kwargs}
        sig["immutable"] = mute


def _link(stages: list[_Stage], callbacks: Sequence[Any]) -> None:
    """Have a callback follow the end of these stages."""
    last = stages[-1]
    if isinstance(last, _Task):
        _append(last.options, "link", callbacks)
    else:
        last.each(lambda branch: _link(branch, callbacks))


def _is_signature(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("task"), str)


def _shown(value: object) -> str:
    return f"a value of type {type(value).__name__}"


# ---------------------------------------------------------------- sending


def _no_defaults(_name: str) -> Mapping[str, Any]:
    return {}


class _Sender:
    """Makes calls and barriers of stages."""

    def __init__(
        self,
        reader: _Reader,
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
        stages: list[_Stage],
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
        if isinstance(first, _Task):
            yield self._call(
                first, args, kwargs, self._reader.wired(stages[1:], follows), over or {}
            )
            return
        options = dict(first.options)
        if over:
            _over(options, over)
        if len(stages) == 1 and not follows:
            for branch in first.branches:
                if kept is not None:
                    kept.append(_result(branch))
                yield from self.emit(branch, args, kwargs, (), None, options)
            return
        rest = self._reader.wired(stages[1:], follows)
        body = rest.pop()
        branches = first.gathered()
        stub: dict[str, Any] = {}
        leaves: list[_Task] = []
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
        task: _Task,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        rest: list[Any],
        over: Mapping[str, Any],
    ) -> Call:
        sig = task.sig
        options = task.options
        if over:
            options = dict(options)
            _over(options, over)
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
            if value is None or name in _STRUCTURE or name in stamps:
                continue
            if name in _SENT:
                sending[name] = _moment(value) if name in ("eta", "expires") else value
            elif self._strict and name not in _CELERYS:
                sending[name] = value
        return sending


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """Refuse an option that nobody knows, also of what is called after the task.

    Raises:
        TypeError: it names the nearest known one.
    """
    stamps = options.get("stamped_headers") or ()
    for name, value in options.items():
        if name in ("link", "link_error"):
            for each in value or ():
                if not _is_signature(each):
                    raise TypeError(
                        f"{name} takes signatures, not {_shown(each)}; write task.s(…)."
                    )
                if kind_of(each) == "task":
                    own = each.get("options") or {}
                    _refuse_unknown({**own, "link": (), "link_error": ()})
        elif value is not None and not (
            name in _SENT or name in _STRUCTURE or name in _CELERYS or name in stamps
        ):
            raise unexpected(name, "apply_async")


_NO_WORKFLOW: Final = Workflow()


def _moment(value: object) -> object:
    """A time as a message of Celery's may have it: a text, or without an offset, which is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _bind(branch: list[_Stage], group_id: str, stub: dict[str, Any], leaves: list[_Task]) -> Any:
    """Make the end of a branch a part of a chord, or several parts; return the shape of its value in indices."""
    last = branch[-1]
    if isinstance(last, _Task):
        last.options.update(group_id=group_id, group_index=len(leaves), chord=stub)
        leaves.append(last)
        return last.options["group_index"]
    return [_bind(each, group_id, stub, leaves) for each in last.gathered()]


def _delay(branches: Iterable[list[_Stage]], over: Mapping[str, Any]) -> float:
    """For how many seconds the slowest of these branches is put off in all; ``over`` is put over what each begins with."""
    longest = 0.0
    for branch in branches:
        whole = 0.0
        for stage in branch:
            options = {**stage.options, **over} if stage is branch[0] else stage.options
            if isinstance(stage, _Fan):
                whole += _delay(stage.gathered(), options)
            else:
                whole += _put_off(options)
        longest = max(longest, whole)
    return longest


def _put_off(options: Mapping[str, Any]) -> float:
    """Seconds until a task is due. What makes no sense is refused elsewhere."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is None and eta is None:
        return 0.0
    if isinstance(countdown, timedelta):
        return max(0.0, countdown.total_seconds())
    if isinstance(countdown, (int, float)):
        return max(0.0, countdown)
    try:
        moment = _moment(eta)
    except ValueError:
        return 0.0
    if not isinstance(moment, datetime):
        return 0.0
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


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


def _first_id(branches: Sequence[list[_Stage]]) -> str | None:
    for branch in branches:
        first = branch[0]
        found = first.id if isinstance(first, _Task) else _first_id(first.gathered())
        if found is not None:
            return found
    return None


def _result(stages: Sequence[_Stage]) -> Result:
    """The result of stages: the last one's, whose parent is the one before it."""
    made: Result | None = None
    for stage in stages:
        if isinstance(stage, _Task):
            made = ((stage.id, made), None)
        else:
            made = ((stage.id, made), [_result(branch) for branch in stage.gathered()])
    assert made is not None
    return made


def only_child(result: Result) -> Result:
    """The result to hand out: a group of one branch that ends in a group is that group."""
    children = result[1]
    if children is not None and len(children) == 1 and children[0][1] is not None:
        return children[0]  # type: ignore[no-any-return]  # a result
    return result
