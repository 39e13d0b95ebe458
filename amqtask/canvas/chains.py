"""``chain``: tasks that run one after the other; and what ``|`` makes of signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from reprlib import recursive_repr
from typing import Any, Self, TypeAlias, TypeVar, cast, overload

from amqtask.canvas.checks import ENDLESS, no_signature, parts, refuse_endless, well_formed
from amqtask.canvas.chords import chord
from amqtask.canvas.freezing import Expected, Place
from amqtask.canvas.groups import group, is_empty
from amqtask.canvas.members import Members, app_of, first_of, given_app, signed
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
from amqtask.core.result import IGNORED, REJECTED
from amqtask.core.workflow import listed
from amqtask.errors import ConfigurationError
from amqtask.results.eager import EagerResult
from amqtask.results.group import GroupResult

S = TypeVar("S")
_Any: TypeAlias = Signature[Any]


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
        if several and not hasattr(tasks[0], "__iter__"):
            raise no_signature(tasks[0])
        items = list(tasks[0]) if several else list(tasks)
        if tasks and not options and (several or len(items) > 1):
            return _folded(cls, items)
        return cls.of(items, **options)

    # A chain comes to what its last link comes to; said of short ones, others are ``chain[Any]``.
    @overload
    def __init__(self: chain[S], a: _Any, b: Signature[S], **options: Any) -> None: ...
    @overload
    def __init__(self: chain[S], a: _Any, b: _Any, c: Signature[S], **options: Any) -> None: ...
    @overload
    def __init__(
        self: chain[S], a: _Any, b: _Any, c: _Any, d: Signature[S], **options: Any
    ) -> None: ...
    @overload
    def __init__(self, *tasks: Any, **options: Any) -> None: ...
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
            {"tasks": [signed(task) for task in tasks]},
            subtask_type="chain",
            app=app,
            options=options,
        )
        return made

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chain of its dictionary form."""
        well_formed(d)
        made = cls.of([maybe_signature(signed(task), app) for task in parts(d, "tasks")], app)
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
        return self.own_app or app_of(self.tasks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; ``None`` when it is empty."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send it; ``None`` when it is empty, and the result of an empty group when it is made of nothing else."""
        nothing = self.nothing()
        return super().apply_async(args, kwargs, **options) if nothing is None else nothing[0]

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """``apply_async`` for coroutines."""
        nothing = self.nothing()
        if nothing is not None:
            return nothing[0]
        return await super().aapply_async(args, kwargs, **options)

    def nothing(self) -> tuple[GroupResult | None] | None:
        """The result, in a tuple, when there is nothing to send."""
        if self.known_app() is not None and self.tasks:
            return None
        links = self.links()
        only: Any = links[0] if len(links) == 1 else None
        if isinstance(only, group):
            return only.nothing()
        return None if links else (None,)

    def cloned(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Self:
        """A copy, its links copied too. Partial arguments are the first link's."""
        _, _, merged = self.merged(None, None, options)
        made = type(self).of([task.clone() for task in self.tasks], self.own_app)
        made["options"] = copied(merged)
        made["immutable"] = self["immutable"]
        if (args or kwargs) and not self["immutable"]:
            _give(made.tasks, args, kwargs)
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
        refuse_endless(self)
        given = {**self.options, **{k: v for k, v in options.items() if v is not None}}
        of_last = {name: given.pop(name) for name in _OF_LAST if given.get(name) is not None}
        callbacks, errbacks = listed(given.pop("link", None)), listed(given.pop("link_error", None))
        app = self.known_app()
        links = [given_app(task.clone(), app) for task in self.links()]
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
                given.setdefault("root_id", first_of(before).id)
            result = task.apply(args, kwargs, **given)
            first_of(result).parent = before
            before = result
            if isinstance(result, EagerResult) and result.state in (IGNORED, REJECTED):
                break
        return before

    def unchain_tasks(self) -> Members:
        """Copies of its links that have its own callbacks: ``link`` the last, ``link_error`` every one."""
        made = type(self).of([task.clone() for task in self.tasks], self.own_app)
        made.options.update({name: self.options.get(name) for name in ("link", "link_error")})
        made.unchain()
        return made.tasks

    def unchain(self) -> None:
        """Give its callbacks to its links and forget its other options, as ``|`` does."""
        tasks = self.tasks
        for callback in listed(self.options.get("link")):
            if tasks:
                tasks[-1].link(callback)
        for errback in listed(self.options.get("link_error")):
            for task in tasks:  # each its own: what stamps one must not stamp the others
                task.link_error(maybe_signature(errback, clone=True))
        self.update(args=(), options={}, immutable=False)

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
        inside = [(id(self), -1)]  # the chains that are open, and how much is left when each ends
        while waiting:
            while len(waiting) <= inside[-1][1]:
                inside.pop()
            task = maybe_signature(waiting.pop(), self.own_app).unrolled()
            if isinstance(task, chain):
                if any(id(task) == known for known, _ in inside):
                    raise ConfigurationError(ENDLESS)
                inside.append((id(task), len(waiting)))
                waiting += reversed(task.tasks)
            elif is_empty(task):
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

    def frozen_at(self, place: Place) -> Expected:
        """Freeze every link, the last one first; group, chord and id are the last one's. See ``Signature.freeze``.

        Raises:
            ValueError: it is empty.
        """
        self.steps, upgraded = self._links()
        if not self.steps:
            raise ValueError("An empty chain has no result.")
        if upgraded:
            # The ids of a group that is now a header are the chord's to keep.
            self.tasks = self.steps
        last = after = self.steps[-1].frozen_at(dataclasses.replace(place, parent_id=None))
        of_others = Place(ids=place.ids, root_id=place.root_id)
        for step in reversed(self.steps[:-1]):
            after = after.first
            after.parent = before = step.frozen_at(of_others)
            after = before
        self.options["task_id"] = last.id
        return last

    def stamped(
        self, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
    ) -> None:
        """Stamp every link. See ``Signature.stamp``."""
        visit = None if visitor is None else visitor.on_chain_start
        stamps = self.stamped_around(visit, visitor, append, headers)
        for task in self.tasks:
            task.stamped(visitor, append, stamps)
        if visitor is not None:
            visitor.on_chain_end(self, **stamps)

    # ------------------------------------------------------------ together

    @classmethod
    def after(cls, first: Signature[Any], second: Signature[Any]) -> Any:
        """What ``|`` makes of two signatures of which the first is neither a chain nor a group."""
        if isinstance(second, chain):
            return cls.of([first, *second.unchain_tasks()], first.own_app)
        last = second.unrolled() if isinstance(second, group) else second
        return cls.of([first, last], first.own_app)

    def __or__(self, other: Signature[S]) -> chain[S]:  # type: ignore[override]  # as Signature
        """Append a signature: after a group it makes a chord, after a chord it joins the chord's body."""
        if not isinstance(other, Signature):
            raise no_signature(other, OPERAND)
        if is_empty(other):
            return cast("chain[S]", self)
        line = _Line(self.clone())
        line.add(other)
        return cast("chain[S]", line.result)

    @recursive_repr("…")
    def __repr__(self) -> str:
        if not self.tasks:
            return "<chain: empty>"
        return shortened(self.tasks[0]["task"], " | ".join(map(repr, self.tasks)))


# Options of a chain that are its last link's.
_OF_LAST = ("task_id", "group_id", "group_index")


def _give(tasks: Members, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Give partial arguments to the first link that runs."""
    for index, task in enumerate(tasks):
        if not is_empty(task):
            tasks[index] = task.clone(args, kwargs)
            return


def _folded(kind: type[chain[Any]], tasks: Members) -> Any:
    """``a | b | c`` of many, in one go. All but the last are copied."""
    line = _Line(kind.of(()))
    for position, task in enumerate(tasks, 1):
        line.add(signed(task), copy=position < len(tasks))
    return line.result


class _Line:
    """What signatures come to that are joined with ``|`` one after the other; each is looked at once.

    Args:
        first: a chain, which is changed.
    """

    __slots__ = ("_at", "result")

    def __init__(self, first: chain[Any]) -> None:
        self.result: Any = first
        # Where a link is appended that is no chord: the chain itself, or a chain in the body of its last link, and so on.
        self._at = first

    def add(self, sig: Signature[Any], copy: bool = False) -> None:
        """``|`` one more, or a copy of it."""
        if not isinstance(self.result, chain):
            self._follow(sig.clone() if copy else sig)
            return
        for link, copied_already in _links_of(sig):
            self._append(link.clone() if copy and not copied_already else link)

    def _append(self, link: Signature[Any]) -> None:
        if not isinstance(self.result, chain):
            self._follow(link)
        elif not isinstance(link, group):
            self._put(link)
        elif not self.result.tasks:
            self.result = link
        elif isinstance(self.result.tasks[-1], chord):
            for inner, _ in _links_of(
                link
            ):  # it joins the chord's body, as one that is alone there does
                self._put(inner)
        else:
            self._put(link)

    def _put(self, link: Signature[Any]) -> None:
        self._at = _appended(self.result if isinstance(link, chord) else self._at, link)

    def _follow(self, sig: Signature[Any]) -> None:
        """``|`` one more after a group or a chord."""
        joins = sig.unrolled() if isinstance(sig, group) else sig
        if isinstance(self.result, chord) and not isinstance(joins, (chain, group)):
            _join_body(self.result, joins)
            return
        self.result = self.result | sig
        if isinstance(self.result, chain):
            self._at = self.result


def _links_of(sig: Signature[Any]) -> Iterator[tuple[Signature[Any], bool]]:
    """What a chain takes in the place of a signature, and whether it is a copy."""
    if is_empty(sig):
        return
    sig = sig.unrolled() if isinstance(sig, group) else sig
    if not isinstance(sig, chain):
        yield sig, False
        return
    for task in sig.unchain_tasks():
        for link, _ in _links_of(task):
            yield link, True


def _appended(line: chain[Any], link: Signature[Any]) -> chain[Any]:
    """Put a link at the end of a chain, which is changed; return the chain where the next one goes if that is no chord."""
    while True:
        tasks = line.tasks
        last: Any = tasks[-1] if tasks else None
        if isinstance(last, group) and not isinstance(link, group):
            tasks.pop()
            if tasks and is_empty(last):
                # Not the header of a chord: what came before it would never arrive.
                continue
            link = chord(last, link, app=line.own_app)
            last = tasks[-1] if tasks else None
            if not isinstance(last, chord):
                tasks.append(link)
                return line
        elif not isinstance(last, chord) or isinstance(link, chord):
            line.unchain()
            tasks.append(link)
            return line
        elif isinstance(link, group):
            line.unchain()
        following = last.body
        if not isinstance(following, chain) or (isinstance(link, group) and not following.tasks):
            _join_body(last, link)
            return line
        line = following


def _join_body(host: chord[Any], link: Signature[Any]) -> None:
    """Put a link, which is no chain, at the end of a chord's body; the chord is changed."""
    while isinstance(host.body, chord) and not isinstance(link, group):
        host = host.body
    body = host.body
    if isinstance(body, chain) and (body.tasks or not isinstance(link, group)):
        _appended(body, link)
    elif body is None or isinstance(body, chain):
        host.body = link
    else:
        host.body = body | link
