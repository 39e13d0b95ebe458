"""``chain``, ``group`` and ``chord``: signatures of several tasks, and what ``|`` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

from amqtask.call import new_id
from amqtask.canvas.lazy import Lazy
from amqtask.canvas.signature import (
    Expected,
    Ids,
    Launcher,
    R_co,
    Signature,
    copied,
    maybe_signature,
    shortened,
    signature,
)
from amqtask.canvas.stamping import StampingVisitor
from amqtask.core.result import IGNORED, REJECTED
from amqtask.core.workflow import listed
from amqtask.results.base import ResultBase
from amqtask.results.group import GroupResult
from amqtask.results.handle import EagerResult

S = TypeVar("S")

Members = list[Signature[Any]]


@Signature.register_type("chain")
class chain(Signature[R_co]):  # noqa: N801  # Celery's name
    """Tasks one after the other, each called with the result of the one before; its result is the last one's.

    ``chain(a, b, c)`` is ``a | b | c``, and may therefore be something else than a chain: a group followed by a task is a
    chord. Callbacks (``link``) are the last task's, error callbacks are every task's.

    Args:
        tasks: signatures, or one iterable of them.
        options: options of ``apply_async``, for the first task; with any, the signatures are taken as they are.
    """

    __slots__ = ("steps",)

    steps: Members
    """After ``freeze``: the frozen links in the order they run, where a group followed by another is a chord."""

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        """Join the signatures, or take them as they are."""
        several = len(tasks) == 1 and not isinstance(tasks[0], (Mapping, str))
        items = list(tasks[0]) if several else list(tasks)
        if tasks and not options and (several or len(items) > 1):
            return _folded(cls, items)
        return cls.of(items, **options)

    def __init__(self, *tasks: Any, **options: Any) -> None:
        """Nothing is left to do: ``__new__`` may answer with another kind."""

    @classmethod
    def of(cls, tasks: Iterable[Any], app: Any = None, **options: Any) -> Self:
        """A chain of these signatures as they are."""
        made = dict.__new__(cls)
        made.steps = []
        Signature.__init__(
            made,
            "celery.chain",
            (),
            {"tasks": [_signed(task) for task in tasks]},
            subtask_type="chain",
            app=app,
            options=options,
        )
        return made

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chain of its dictionary form."""
        tasks = [maybe_signature(task, app) for task in d["kwargs"]["tasks"] or ()]
        made = cls.of(tasks, app)
        made.options.update(d.get("options") or {})
        made["immutable"] = bool(d.get("immutable"))
        if d.get("args") and not made["immutable"]:
            _give(made.tasks, d["args"], {})
        return made

    @property
    def tasks(self) -> Members:
        """Its links."""
        return cast("Members", self["kwargs"]["tasks"])

    @tasks.setter
    def tasks(self, tasks: Iterable[Signature[Any]]) -> None:
        self["kwargs"]["tasks"] = list(tasks)

    def known_app(self) -> Launcher | None:
        """Its app, or one of its links'."""
        return self.own_app or _app_of(self.tasks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; ``None`` when it is empty."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send it; ``None`` when it is empty."""
        return super().apply_async(args, kwargs, **options) if self.tasks else None

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """``apply_async`` for coroutines."""
        return await super().aapply_async(args, kwargs, **options) if self.tasks else None

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A copy, its links copied too. Partial arguments are the first link's."""
        _, _, merged = self.merged(None, None, options)
        made = type(self).of([task.clone() for task in self.tasks], self.own_app, **copied(merged))
        made["immutable"] = self["immutable"]
        if (args or kwargs) and not self["immutable"]:
            _give(made.tasks, args or (), kwargs or {})
        return made

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run its links here, one after the other; the outcome is the last one's. ``None`` when it is empty.

        A link that ends in ``Ignore`` or ``Reject`` is the last.

        Raises:
            Exception: what a link that is not the last has raised.
        """
        given = {**self.options, **{k: v for k, v in options.items() if v is not None}}
        of_last = {name: given.pop(name) for name in _OF_LAST if given.get(name) is not None}
        callbacks, errbacks = listed(given.pop("link", None)), listed(given.pop("link_error", None))
        app = self.known_app()
        links = [_given(task.clone(), app) for task in self.links()]
        for task in links:
            for errback in errbacks:
                task.link_error(errback)
        before: Any = None
        for task in links:
            if task is links[-1]:
                for callback in callbacks:
                    task.link(callback)
                given.update(of_last)
            if before is not None:
                args, kwargs, given["parent_id"] = (before.get(),), None, before.id
                given.setdefault("root_id", _first_of(before).id)
            result = task.apply(args, kwargs, **given)
            _first_of(result).parent = before
            before = result
            if isinstance(result, EagerResult) and result.state in (IGNORED, REJECTED):
                break
        return before

    def unchain_tasks(self) -> Members:
        """Copies of its links that have its own callbacks: ``link`` the last, ``link_error`` every one."""
        tasks = [task.clone() for task in self.tasks]
        if tasks:
            for callback in listed(self.options.get("link")):
                tasks[-1].link(callback)
        for errback in listed(self.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        return tasks

    def links(self) -> Members:
        """Its links as they run: inner chains opened, empty groups left out, a group followed by another made a chord.

        They are the links themselves, not copies. A chain of nothing but empty groups keeps one.
        """
        return self._links()[0]

    def _links(self) -> tuple[Members, bool]:
        """``links``, and whether a group was made a chord."""
        flat: Members = []
        empty: Signature[Any] | None = None
        waiting = list(reversed(self.tasks))
        while waiting:
            task = maybe_signature(waiting.pop(), self.own_app).unrolled()
            if isinstance(task, chain):
                waiting += reversed(task.tasks)
            elif _is_empty(task):
                empty = task
            else:
                flat.append(task)
        if not flat and empty is not None:
            return [empty], False
        upgraded = False
        joined: Members = []
        for task in reversed(flat):
            if isinstance(task, group) and joined:
                task = chord(task, joined.pop(), app=self.own_app)
                upgraded = True
            joined.append(task)
        joined.reverse()
        return joined, upgraded

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Signature[Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
        *,
        ids: Ids = new_id,
    ) -> Expected:
        """Freeze every link, the last one first; group, chord and id are the last one's. See ``Signature.freeze``.

        Raises:
            ValueError: it is empty.
        """
        self.steps, upgraded = self._links()
        if not self.steps:
            raise ValueError("An empty chain has no result.")
        if upgraded:
            self.tasks = (
                self.steps
            )  # the ids of a group that is now a header are the chord's to keep
        last = after = self.steps[-1].freeze(
            _id, group_id, chord, root_id, group_index=group_index, ids=ids
        )
        for step in reversed(self.steps[:-1]):
            after = after.first
            after.parent = before = step.freeze(root_id=root_id, ids=ids)
            after = before
        self.options["task_id"] = last.id
        return last

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp every link. See ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        stamps = self._stamps(visited, append_stamps, headers)
        self.stamp_links(visitor, append_stamps, **stamps)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **stamps)
        if visitor is not None:
            visitor.on_chain_end(self, **stamps)

    # ------------------------------------------------------------ together

    @classmethod
    def after(cls, first: Signature[Any], second: Signature[Any]) -> Any:
        """What ``|`` makes of two signatures of which the first is neither a chain nor a group."""
        if isinstance(second, chain):
            return cls.of([first, *second.unchain_tasks()], first.own_app)
        second = second.unrolled()
        return cls.of([first, second], first.own_app)

    def __or__(self, other: Signature[S]) -> chain[S]:  # type: ignore[override]  # as Signature
        """Append a signature: after a group it makes a chord, after a chord it joins the chord's body."""
        if not isinstance(other, Signature):
            return NotImplemented
        return cast("chain[S]", self._with(other))

    def _with(self, other: Signature[Any]) -> Any:
        if _is_empty(other):
            return self
        other = other.unrolled()
        if isinstance(other, chain):
            result: Any = self
            for task in other.unchain_tasks():
                result = result | task
            return result
        last: Any = self.tasks[-1] if self.tasks else None
        if isinstance(last, group) and not isinstance(other, group):
            made = self.clone()
            if len(made.tasks) > 1 and _is_empty(last):
                # Not the header of a chord: what came before it would never arrive.
                made.tasks.pop()
                return made | other
            joined: chord[Any] = chord(made.tasks.pop(), other, app=self.own_app)
            before = made.tasks[-1] if made.tasks else None
            if isinstance(before, chord):
                before.body = _or(before.body, joined)
            else:
                made.tasks.append(joined)
            return made
        if isinstance(last, chord) and not isinstance(other, (group, chord)):
            made = self.clone()
            last = made.tasks[-1]
            last.body = _or(last.body, other)
            return made
        tasks = self.unchain_tasks()
        if isinstance(other, group):
            if not tasks:
                return other
            if isinstance(tasks[-1], chord):
                tasks[-1].body = _or(tasks[-1].body, other)
                return type(self).of(tasks, self.own_app)
        return type(self).of([*tasks, other], self.own_app)

    def __repr__(self) -> str:
        if not self.tasks:
            return "<chain: empty>"
        return shortened(self.tasks[0]["task"], " | ".join(map(repr, self.tasks)))


@Signature.register_type("group")
class group(Signature[R_co]):  # noqa: N801  # Celery's name
    """Tasks at the same time; its result is the list of theirs, in their order.

    An iterator is not asked for its items before they are needed: a group of a generator is as long as memory is, and sent
    while it is generated.

    Args:
        tasks: signatures, or one iterable of them.
        options: options of ``apply_async``, for every member.
    """

    __slots__ = ()

    def __init__(self, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        super().__init__(
            "celery.group",
            (),
            {"tasks": _members(tasks)},
            subtask_type="group",
            app=app,
            options=options,
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A group of its dictionary form."""
        tasks = _each(d["kwargs"]["tasks"] or [], lambda task: maybe_signature(task, app))
        made = cls(tasks, app=app)
        made.options.update(d.get("options") or {})
        made["immutable"] = bool(d.get("immutable"))
        if d.get("args") and not made["immutable"]:
            made.tasks = _each(made.tasks, lambda task: task.clone(d["args"]))
        return made

    @property
    def tasks(self) -> Members:
        """Its members: a list, or a ``Lazy`` one."""
        return cast("Members", self["kwargs"]["tasks"])

    @tasks.setter
    def tasks(self, tasks: Members) -> None:
        self["kwargs"]["tasks"] = tasks

    def known_app(self) -> Launcher | None:
        """Its app, or one of its members'."""
        return self.own_app or _app_of(self.tasks)

    def __call__(self, *partial_args: Any, **options: Any) -> GroupResult:
        """Send it."""
        return self.apply_async(partial_args, **options)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> GroupResult:  # type: ignore[override]  # of several
        """Send every member; return when the broker has confirmed them all."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(  # type: ignore[override]  # of several
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult:
        """``delay`` with options, for every member.

        Raises:
            TypeError: with ``link`` or ``link_error``: a group has no end of its own.
        """
        _refuse_links(options)
        if not self.tasks:
            return self._nothing()
        return cast(GroupResult, super().apply_async(args, kwargs, **options))

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> GroupResult:  # type: ignore[override]  # of several
        """``delay`` for coroutines."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(  # type: ignore[override]  # of several
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult:
        """``apply_async`` for coroutines."""
        _refuse_links(options)
        if not self.tasks:
            return self._nothing()
        return cast(GroupResult, await super().aapply_async(args, kwargs, **options))

    def _nothing(self) -> GroupResult:
        """The result of a group without members, which nobody has to send."""
        return GroupResult(self.options.get("task_id") or new_id(), [])

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A copy, its members copied too: those of a generator as they come. Partial arguments are every member's."""
        _, _, merged = self.merged(None, None, options)
        if self["immutable"]:
            args = kwargs = None
        made = type(self)(
            _each(self.tasks, lambda task: task.clone(args, kwargs)), app=self.own_app
        )
        made["options"] = copied(merged)
        made["immutable"] = self["immutable"]
        return made

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult:
        """Run its members here, one after the other; their outcomes are a ``GroupResult``'s."""
        _, _, given = self.merged(None, None, {k: v for k, v in options.items() if v is not None})
        shared = {k: v for k, v in given.items() if k not in ("task_id", "group_index")}
        shared["group_id"] = group_id = given.get("task_id") or new_id()
        return GroupResult(
            group_id,
            [
                member.apply(args, kwargs, **shared, group_index=index)
                for index, member in enumerate(_flat(self.tasks, self.known_app()))
            ],
        )

    def unrolled(self) -> Signature[Any]:
        """Its only member, or itself."""
        tasks = self.tasks
        one = tasks.peek(2) == 1 if isinstance(tasks, Lazy) else len(tasks) == 1
        return maybe_signature(tasks[0], self.own_app) if one else self

    def members(self) -> Iterator[Signature[Any]]:
        """Its members as they run: those of inner groups and chunks in their place, empty chains left out.

        They are the members themselves, not copies.
        """
        return _flat(self.tasks, self.own_app)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Signature[Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
        *,
        ids: Ids = new_id,
    ) -> Expected:
        """Freeze every member, those of a generator as they come. See ``Signature.freeze``.

        Its members are copies afterwards, those of inner groups in their place.
        """
        options = self.options
        own = options.get("task_id")
        if own is None:
            own = options["task_id"] = _id or ids()
        if group_id:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        root_id = options.setdefault("root_id", root_id)
        parent_id = options.setdefault("parent_id", parent_id)

        def frozen() -> Iterator[tuple[Signature[Any], Expected]]:
            for index, member in enumerate(members):
                sig = member.clone()
                yield (
                    sig,
                    sig.freeze(None, group_id, chord, root_id, parent_id, index, ids=ids),
                )

        members = _flat(self.tasks, self.own_app)
        if isinstance(self.tasks, Lazy):
            pairs = Lazy(frozen())
            self.tasks = pairs.mapped(lambda pair: pair[0])
            return Expected(own, None, pairs.mapped(lambda pair: pair[1]))
        both = list(frozen())
        self.tasks = [sig for sig, _ in both]
        return Expected(own, None, [expected for _, expected in both])

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Delay the members by ``start`` seconds, and by ``step`` more each, up to ``stop``; return itself.

        Args:
            start: seconds of the first member.
            stop: the most seconds, of all members that would come later.
            step: seconds between two.
        """
        waits = _waits(float(start), stop, step)
        if isinstance(self.tasks, Lazy):
            self.tasks = self.tasks.mapped(lambda task: _signed(task).set(countdown=next(waits)))
        else:
            for task in self.tasks:
                task.set(countdown=next(waits))
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Choose whether its members ignore partial arguments."""
        self.on_each(lambda task: task.set_immutable(immutable))

    def link(self, callback: Signature[Any]) -> Any:
        """Call this when the **first** member has succeeded, without its result. For the results of all, use a chord."""
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Signature[Any]) -> Any:
        """Call this for every member that has failed."""
        sig = maybe_signature(errback)
        self.on_each(lambda task: task.link_error(sig.clone()))
        return errback

    def on_each(self, change: Callable[[Signature[Any]], object]) -> None:
        """Change every member in place, those of a generator as they come."""

        def changed(task: Any) -> Signature[Any]:
            sig: Signature[Any] = maybe_signature(task, self.own_app)
            change(sig)
            return sig

        self.tasks = _each(self.tasks, changed)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp every member, those of a generator as they come. See ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        stamps = self._stamps(visited, append_stamps, headers)
        self.stamp_links(visitor, append_stamps, **stamps)
        self.on_each(lambda task: task.stamp(visitor, append_stamps, **stamps))
        if visitor is not None:
            visitor.on_group_end(self, **stamps)

    def __or__(self, other: Signature[S]) -> chord[S]:  # type: ignore[override]  # as Signature
        """A chord: the other gets the results of all members."""
        if not isinstance(other, Signature):
            return NotImplemented
        if isinstance(other, group) and not isinstance(other.tasks, Lazy) and not other.tasks:
            return cast("chord[S]", self)
        return chord(self, other, app=self.own_app)

    def __repr__(self) -> str:
        tasks = self.tasks
        if isinstance(tasks, Lazy):
            return f"group({tasks!r})"
        return shortened(tasks[0]["task"], f"group({tasks!r})") if tasks else "group(<empty>)"


@Signature.register_type("chord")
class chord(Signature[R_co]):  # noqa: N801  # Celery's name
    """A group whose results, in order, are the argument of one more task, the body; its result is the body's.

    Args:
        header: the parts: an iterable of signatures, or a group.
        body: what is called with the list of their results.
        task: Celery's name for it.
        args: partial arguments of the parts.
        kwargs: partial keyword arguments of the parts, as ``{"kwargs": {…}}``.
        app: the app it is sent through.
        options: options of ``apply_async``.
    """

    __slots__ = ()

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        given = {
            **(kwargs or {"kwargs": {}}),
            "header": _header(header, app),
            "body": maybe_signature(body, app),
        }
        options.pop("subtask_type", None)
        super().__init__(task, args, given, subtask_type="chord", app=app, **options)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chord of its dictionary form."""
        kwargs = dict(d["kwargs"])
        header, body = kwargs.pop("header", None), kwargs.pop("body", None)
        made = cls(
            header or [],
            body,
            d["task"],
            d.get("args"),
            kwargs,
            app,
            options=d.get("options") or {},
            immutable=bool(d.get("immutable")),
        )
        made.keep_frozen(header)
        return made

    @property
    def tasks(self) -> Any:
        """Its parts: a list, a ``Lazy`` one, or once it is frozen a group."""
        return self["kwargs"]["header"]

    @tasks.setter
    def tasks(self, header: Any) -> None:
        self["kwargs"]["header"] = header

    @property
    def header(self) -> group[Any]:
        """Its parts as a group."""
        tasks = self.tasks
        return tasks if isinstance(tasks, group) else group(tasks, app=self.own_app)

    @property
    def body(self) -> Any:
        """What is called with the results of its parts."""
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Signature[Any] | None) -> None:
        self["kwargs"]["body"] = body

    def known_app(self) -> Launcher | None:
        """Its app, or one of its body's or parts'."""
        return self.own_app or _app_of([self.body]) or _app_of(self.header.tasks)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body instead of its own."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send it.

        Args:
            args: partial arguments of the parts.
            kwargs: partial keyword arguments of the parts, and as ``body`` another body.
            options: ``task_id``, ``link`` and ``link_error`` are the body's, ``countdown`` and ``eta`` the parts'.
        """
        sig, keywords = self._with_body(kwargs)
        return super(chord, sig).apply_async(args, keywords, **options)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """``apply_async`` for coroutines."""
        sig, keywords = self._with_body(kwargs)
        return await super(chord, sig).aapply_async(args, keywords, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run its parts here, one after the other, then the body; the outcome is the body's.

        Args:
            args: partial arguments of the parts.
            kwargs: partial keyword arguments of the parts.
            propagate: raise what a part has raised; ``False`` gives the exception to the body.
            body: another body.
            options: options of the body.
        """
        sig, keywords = self._with_body({**(kwargs or {}), "body": body})
        if sig.body is None:
            raise ValueError("This chord has no body; write chord(header, body).")
        arguments, _, _ = sig.merged(args)
        own = {k: v for k, v in sig.options.items() if k not in ("task_id", "group_id")}
        given = {**own, **{k: v for k, v in options.items() if v is not None}}
        parts = _given(sig.header.clone(), sig.known_app()).apply(
            arguments, {**sig.kwargs.get("kwargs", {}), **keywords}, root_id=given.get("root_id")
        )
        follows = _given(sig.body.clone(), sig.known_app())
        for name, link in (("link", follows.link), ("link_error", follows.link_error)):
            for callback in listed(given.pop(name, None)):
                link(callback)
        result = follows.apply((parts.get(propagate=propagate),), **given)
        _first_of(result).parent = parts
        return result

    def _with_body(self, kwargs: Mapping[str, Any] | None) -> tuple[Self, dict[str, Any]]:
        keywords = dict(kwargs or {})
        body = keywords.pop("body", None)
        if not body:
            return self, keywords
        sig = self.clone()
        sig.body = maybe_signature(body, self.own_app, clone=True)
        return sig, keywords

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A copy, its parts and its body copied too. Partial arguments are the parts'."""
        given, _, merged = self.merged(args, None, options)
        own = {name: value for name, value in self.kwargs.items() if name not in _CHORD_PARTS}
        if kwargs and not self["immutable"]:
            own["kwargs"] = {**own.get("kwargs", {}), **kwargs}
        made = type(self)(
            self.header,
            maybe_signature(self.body, clone=True),
            self["task"],
            given,
            own,
            self.own_app,
            options=copied(merged),
            immutable=self["immutable"],
        )
        made.keep_frozen(self.tasks)
        return made

    def keep_frozen(self, header: Any) -> None:
        """Keep the ids that a frozen chord's header has as a group."""
        options = header.get("options") if isinstance(header, Mapping) else None
        if options and header.get("subtask_type") == "group":
            self.tasks = group(self.tasks, app=self.own_app)
            self.tasks.options.update(copied(options))

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Signature[Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
        *,
        ids: Ids = new_id,
    ) -> Expected:
        """Freeze the parts, then the body, whose result is this one's. See ``Signature.freeze``.

        Its own id is that of the group of its parts.
        """
        self.tasks = header = self.header
        parts = header.freeze(parent_id=parent_id, root_id=root_id, chord=self.body, ids=ids)
        self.options["task_id"] = header.id
        body = self.body
        if body is None:
            return parts
        result = cast(
            Expected,
            body.freeze(_id, group_id, chord, root_id, group_index=group_index, ids=ids),
        )
        result.first.parent = parts
        return result

    def set_immutable(self, immutable: bool) -> None:
        """Choose whether its parts ignore partial arguments."""
        header = self.header
        header.set_immutable(immutable)
        self._keep(header)

    def link(self, callback: Signature[Any]) -> Any:
        """Call this when the body has succeeded."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Signature[Any]) -> Any:
        """Call this when the body has failed, as it does when a part has."""
        sig = maybe_signature(errback)
        tasks = self.tasks.tasks if isinstance(self.tasks, group) else self.tasks
        settings = getattr(self.known_app(), "settings", None)
        if getattr(settings, "task_allow_error_cb_on_chord_header", False):
            header = self.header
            header.on_each(lambda task: task.link_error(sig.clone().set(immutable=True)))
            self._keep(header)
        elif not isinstance(tasks, Lazy):
            for task in tasks:
                if isinstance(task, chord):
                    task.link_error(sig)
        self.body.link_error(sig)
        return errback

    def _keep(self, header: group[Any]) -> None:
        """Take the parts of a group that was made of them, as a list where they were one."""
        self.tasks = header if isinstance(self.tasks, group) else header.tasks

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp the parts and the body. See ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        stamps = self._stamps(visited, append_stamps, headers)
        self.stamp_links(visitor, append_stamps, **stamps)
        header = self.header
        header.on_each(lambda task: task.stamp(visitor, append_stamps, **stamps))
        self._keep(header)
        if visitor is not None:
            visitor.on_chord_header_end(self, **stamps)
        if self.body is not None:
            visited = None if visitor is None else visitor.on_chord_body(self, **stamps) or {}
            of_body = self._stamps(visited, append_stamps, stamps)
            self.body.stamp(visitor, append_stamps, **of_body)

    def __or__(self, other: Signature[S]) -> Signature[S]:  # type: ignore[override]  # as Signature
        """A task joins the body; a chain or a group follows."""
        if not isinstance(other, Signature):
            return NotImplemented
        joins = other.unrolled() if isinstance(other, group) else other
        if isinstance(other, chain) or (joins is other and isinstance(other, group)):
            return super().__or__(other)
        sig: Any = self.clone()
        sig.body = _or(sig.body, joins)
        return cast("Signature[S]", sig)

    def __repr__(self) -> str:
        body, tasks = self.body, self.tasks
        if body is None:
            return f"<chord without body: {tasks!r}>"
        if isinstance(body, chain) and body.tasks:
            first = body.tasks[0]
            rest: chain[Any] = chain.of(body.tasks[1:])
            return shortened(first["task"], f"%({first.reprcall(tasks)} | {rest!r})")
        return "%" + shortened(body["task"], body.reprcall(tasks))


_CHORD_PARTS = ("header", "body")

# Options of a chain that are its last link's.
_OF_LAST = ("task_id", "group_id", "group_index")


def _first_of(result: ResultBase) -> Any:
    """The first of those that a result follows from; itself when it follows from none."""
    first = result
    for first in result.ancestors():  # noqa: B007  # the last one counts
        pass
    return first


def _signed(task: Any) -> Signature[Any]:
    """A signature of what may be its dictionary form.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(task, Signature):
        return task
    if isinstance(task, Mapping):
        return Signature.from_dict(task)
    raise TypeError(
        f"A workflow is made of signatures, not of {type(task).__name__}: write task.s(…) for the call of a task."
    )


def _given(sig: Signature[Any], app: Launcher | None) -> Signature[Any]:
    """The signature, which belongs to this app if it had none."""
    if app is not None and sig.own_app is None and sig.own_type is None:
        sig.own_app = app
    return sig


def _each(tasks: Iterable[Any], change: Callable[[Any], Signature[Any]]) -> Members:
    """What a function makes of each: as a list, or as they come."""
    if isinstance(tasks, Lazy):
        return tasks.mapped(change)
    return [change(task) for task in tasks]


def _flat(tasks: Iterable[Any], app: Launcher | None) -> Iterator[Signature[Any]]:
    """The members of a group, those of inner groups and chunks in their place, without empty chains."""
    for task in tasks:
        sig = _given(_signed(task), app)
        inner = sig if isinstance(sig, group) else sig.unrolled()  # which makes a group of chunks
        if isinstance(inner, group):
            yield from _flat(inner.tasks, app)
        elif not (isinstance(sig, chain) and not sig.tasks):
            yield sig


def _members(tasks: Sequence[Any]) -> Members:
    if len(tasks) != 1:
        return [_signed(task) for task in tasks]
    only = tasks[0]
    if isinstance(only, group):
        return only.tasks
    if isinstance(only, Signature):
        return [only.clone()]
    if isinstance(only, Mapping):
        return [_signed(only)]
    if isinstance(only, Lazy):
        return only
    if isinstance(only, (list, tuple)):
        return [_signed(task) for task in only]
    if isinstance(only, str) or not hasattr(only, "__iter__"):
        return [_signed(only)]  # which says what is wrong with it
    return Lazy(map(_signed, only))


def _header(header: Any, app: Any) -> Members:
    if isinstance(header, Mapping):
        header = signature(header, app=app)
    if isinstance(header, (group, chain)):
        return header.tasks
    if isinstance(header, Signature):
        return [header]

    def copy(task: Any) -> Signature[Any]:
        return _given(_signed(task).clone(), app)

    if isinstance(header, (list, tuple, set, frozenset)) and not isinstance(header, Lazy):
        return [copy(task) for task in header]
    if isinstance(header, str) or not hasattr(header, "__iter__"):
        return [_signed(header)]
    return Lazy(map(copy, header))


def _app_of(tasks: Iterable[Any]) -> Launcher | None:
    """The app of the first that has one; a generator is asked for one item at most."""
    for task in tasks:
        if isinstance(task, Signature):
            app = task.known_app()
            if app is not None:
                return app
        if isinstance(tasks, Lazy):
            break
    return None


def _is_empty(task: Signature[Any]) -> bool:
    """Whether it is a group without members; a generator is asked for one at most."""
    return isinstance(task, group) and not task.tasks


def _or(body: Any, other: Signature[Any]) -> Any:
    return other if body is None else body | other


def _give(tasks: Members, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Give partial arguments to the first link that runs."""
    for index, task in enumerate(tasks):
        if not _is_empty(task):
            tasks[index] = task.clone(args, kwargs)
            return


def _waits(wait: float, stop: float | None, step: float) -> Iterator[float]:
    while not stop or wait <= stop:
        yield wait
        wait += step
    while True:
        yield wait - step


def _refuse_links(options: Mapping[str, Any]) -> None:
    if options.get("link") is not None:
        raise TypeError("A group takes no link: for the results of all its members use a chord.")
    if options.get("link_error") is not None:
        raise TypeError(
            "A group takes no link_error: link it to the members, or use group.link_error()."
        )


def _folded(kind: type[chain[Any]], tasks: Members) -> Any:
    """``a | b | c`` of many, in one go: each is looked at once.

    All but the last are copied.
    """
    steps: Members = []
    for position, task in enumerate(tasks):
        result = _put(steps, _signed(task), position != len(tasks) - 1)
        if result is not None:  # it stopped being a chain: a group comes first
            for left in tasks[position + 1 :]:
                result = result | _signed(left)
            return result
    return kind.of(steps)


def _put(steps: Members, other: Signature[Any], copy: bool) -> Any:
    """Append a link by the rules of ``|``; a result when that is no chain."""
    if _is_empty(other):
        return None
    other = other.unrolled() if isinstance(other, group) else other
    if isinstance(other, chain):
        inner = other.unchain_tasks()
        for position, task in enumerate(inner):
            result = _put(steps, task, False)
            if result is not None:
                for left in inner[position + 1 :]:
                    result = result | left
                return result
        return None
    last = steps[-1] if steps else None
    if isinstance(other, group):
        if last is None:
            return other
        if isinstance(last, chord):
            last.body = _or(last.body, other)
            return None
    elif isinstance(last, group):
        steps[-1] = chord(last, other.clone() if copy else other)
        return None
    elif isinstance(last, chord) and not isinstance(other, chord):
        last.body = _or(last.body, other)
        return None
    steps.append(other.clone() if copy else other)
    return None
