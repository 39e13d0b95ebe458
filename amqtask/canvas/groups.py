"""``group``: tasks that run beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from amqtask.call import new_id
from amqtask.canvas.checks import linkable, no_signature, parts, refuse_endless, well_formed
from amqtask.canvas.freezing import Expected, Place
from amqtask.canvas.lazy import Lazy
from amqtask.canvas.members import Members, app_of, each_of, given_app, signed
from amqtask.canvas.signature import (
    OPERAND,
    Launcher,
    R_co,
    Signature,
    copied,
    maybe_signature,
    shortened,
)
from amqtask.canvas.stamping import StampingVisitor
from amqtask.results.group import GroupResult

if TYPE_CHECKING:
    from amqtask.canvas.chords import chord

S = TypeVar("S")


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
        well_formed(d)
        tasks = each_of(parts(d, "tasks"), lambda task: given_app(signed(task), app))
        made = cls(tasks, app=app)
        made.options.update(d.get("options") or {})
        made["immutable"] = bool(d.get("immutable"))
        if d.get("args") and not made["immutable"]:
            made.tasks = each_of(made.tasks, lambda task: task.clone(d["args"]))
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
        return self.own_app or app_of(self.tasks)

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
        nothing = self.nothing()
        if nothing is not None:
            return nothing[0]
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
        nothing = self.nothing()
        if nothing is not None:
            return nothing[0]
        return cast(GroupResult, await super().aapply_async(args, kwargs, **options))

    def nothing(self) -> tuple[GroupResult] | None:
        """The result, in a tuple, of a group without members, which nobody has to send."""
        if self.known_app() is not None and self.tasks:
            return None
        if next(self.members(), None) is not None:
            return None
        return (GroupResult(self.options.get("task_id") or new_id(), []),)

    def cloned(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Self:
        """A copy, its members copied too: those of a generator as they come. Partial arguments are every member's."""
        _, _, merged = self.merged(None, None, options)
        if self["immutable"]:
            args, kwargs = (), {}
        made = type(self)(
            each_of(self.tasks, lambda task: task.clone(args, kwargs)), app=self.own_app
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
        refuse_endless(self)
        _, _, given = self.merged(None, None, {k: v for k, v in options.items() if v is not None})
        shared = {k: v for k, v in given.items() if k not in ("task_id", "group_index")}
        shared["group_id"] = group_id = given.get("task_id") or new_id()
        return GroupResult(
            group_id,
            [
                member.apply(args, kwargs, **shared, group_index=index)
                for index, member in enumerate(flat(self.tasks, self.known_app()))
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
        return flat(self.tasks, self.own_app)

    def frozen_at(self, place: Place) -> Expected:
        """Freeze every member, those of a generator as they come. See ``Signature.freeze``.

        Its members are copies afterwards, those of inner groups in their place.
        """
        options = self.options
        own = options.get("task_id")
        if own is None:
            own = options["task_id"] = place.id or place.ids()
        if place.group_id:
            options["group_id"] = place.group_id
        if place.chord:
            options["chord"] = place.chord
        if place.group_index is not None:
            options["group_index"] = place.group_index
        of_member = dataclasses.replace(
            place,
            id=None,
            root_id=options.setdefault("root_id", place.root_id),
            parent_id=options.setdefault("parent_id", place.parent_id),
        )

        def frozen() -> Iterator[tuple[Signature[Any], Expected]]:
            for index, member in enumerate(members):
                sig = member.clone()
                yield sig, sig.frozen_at(dataclasses.replace(of_member, group_index=index))

        members = flat(self.tasks, self.own_app)
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

        Raises:
            TypeError: one of them is no number.
        """
        for name, value in (("start", start), ("stop", stop), ("step", step)):
            if not isinstance(value, (int, float)) and (name != "stop" or value is not None):
                raise TypeError(f"skew() takes {name} in seconds, not {value!r}.")
        waits = _waits(float(start), stop, step)
        if isinstance(self.tasks, Lazy):
            self.tasks = self.tasks.mapped(lambda task: signed(task).set(countdown=next(waits)))
        else:
            for task in self.tasks:
                task.set(countdown=next(waits))
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Choose whether its members ignore partial arguments."""
        self.on_each(lambda task: task.set_immutable(immutable))

    def link(self, callback: Signature[Any]) -> Any:
        """Call this when the **first** member has succeeded, without its result. For the results of all, use a chord.

        Raises:
            TypeError: it is no signature.
            ValueError: there is no member.
        """
        linkable(callback, "link")
        if not self.tasks:
            raise ValueError("An empty group has no member that a callback could follow.")
        return self.tasks[0].link(maybe_signature(callback, clone=True).set(immutable=True))

    def link_error(self, errback: Signature[Any]) -> Any:
        """Call this for every member that has failed.

        Raises:
            TypeError: it is no signature.
        """
        linkable(errback, "link_error")
        sig = maybe_signature(errback)
        self.on_each(lambda task: task.link_error(sig.clone()))
        return errback

    def on_each(self, change: Callable[[Signature[Any]], object]) -> None:
        """Change every member in place, those of a generator as they come."""

        def changed(task: Any) -> Signature[Any]:
            sig: Signature[Any] = maybe_signature(task, self.own_app)
            change(sig)
            return sig

        self.tasks = each_of(self.tasks, changed)

    def stamped(
        self, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
    ) -> None:
        """Stamp every member, those of a generator as they come. See ``Signature.stamp``."""
        visit = None if visitor is None else visitor.on_group_start
        stamps = self.stamped_around(visit, visitor, append, headers)
        self.on_each(lambda task: task.stamped(visitor, append, stamps))
        if visitor is not None:
            visitor.on_group_end(self, **stamps)

    def __or__(self, other: Signature[S]) -> chord[S]:  # type: ignore[override]  # as Signature
        """A chord: the other gets the results of all members."""
        if not isinstance(other, Signature):
            raise no_signature(other, OPERAND)
        if isinstance(other, group) and not isinstance(other.tasks, Lazy) and not other.tasks:
            return cast("chord[S]", self)
        joins: Any = self.TYPES["chord"]
        return cast("chord[S]", joins(self, other, app=self.own_app))

    @recursive_repr("…")
    def __repr__(self) -> str:
        tasks = self.tasks
        if isinstance(tasks, Lazy):
            return f"group({tasks!r})"
        return shortened(tasks[0]["task"], f"group({tasks!r})") if tasks else "group(<empty>)"


def flat(tasks: Iterable[Any], app: Launcher | None) -> Iterator[Signature[Any]]:
    """The members of a group, those of inner groups and chunks in their place, without empty chains."""
    for task in tasks:
        sig = given_app(signed(task), app)
        inner = sig if isinstance(sig, group) else sig.unrolled()  # which makes a group of chunks
        if isinstance(inner, group):
            yield from flat(inner.tasks, app)
        elif sig["subtask_type"] != "chain" or sig["kwargs"]["tasks"]:
            yield sig


def _members(tasks: Sequence[Any]) -> Members:
    if len(tasks) != 1:
        return [signed(task) for task in tasks]
    only = tasks[0]
    if isinstance(only, group):
        return only.tasks
    if isinstance(only, Signature):
        return [only.clone()]
    if isinstance(only, Mapping):
        return [signed(only)]
    if isinstance(only, Lazy):
        return only
    if isinstance(only, (list, tuple)):
        return [signed(task) for task in only]
    if isinstance(only, str) or not hasattr(only, "__iter__"):
        return [signed(only)]  # which says what is wrong with it
    return Lazy(map(signed, only))


def is_empty(task: Signature[Any]) -> bool:
    """Whether it is a group without members; a generator is asked for one at most."""
    return isinstance(task, group) and not task.tasks


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
