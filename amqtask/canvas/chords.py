"""``chord``: a group whose results are the argument of one more task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from reprlib import recursive_repr
from typing import Any, Self, TypeVar, cast, overload

from amqtask.call import positional
from amqtask.canvas.checks import (
    linkable,
    no_signature,
    parts,
    refuse_endless,
    refuse_loop,
    well_formed,
)
from amqtask.canvas.freezing import Expected, Place
from amqtask.canvas.groups import group
from amqtask.canvas.lazy import Lazy
from amqtask.canvas.members import Members, app_of, first_of, given_app, signed
from amqtask.canvas.signature import (
    OPERAND,
    Launcher,
    R_co,
    Signature,
    copied,
    maybe_signature,
    shortened,
    signature,
)
from amqtask.canvas.stamping import StampingVisitor
from amqtask.core.workflow import listed

S = TypeVar("S")


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

    @overload
    def __init__(
        self: chord[S], header: Any, body: Signature[S], *, app: Any = None, **options: Any
    ) -> None: ...
    @overload
    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None: ...
    def __init__(
        self: chord[Any],
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        if not isinstance(task, str):
            raise TypeError(
                "A chord is made of a header and a body: write chord([a.s(…), b.s(…)], body.s(…)), with the parts in one list."
            )
        given = {
            **(kwargs or {"kwargs": {}}),
            "header": _header(header, app),
            "body": _body(body, app),
        }
        options.pop("subtask_type", None)
        super().__init__(task, args, given, subtask_type="chord", app=app, **options)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chord of its dictionary form."""
        well_formed(d)
        kwargs = dict(d.get("kwargs") or {})
        if not isinstance(kwargs.get("kwargs") or {}, Mapping):
            raise TypeError(
                "The 'kwargs' in the kwargs of a chord are a mapping: those of its parts."
            )
        if kwargs.get("header") is not None and not isinstance(kwargs["header"], Mapping):
            kwargs["header"] = parts(d, "header")
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
        if body is not None:
            refuse_loop(body, self, "its body")
        self["kwargs"]["body"] = body

    def known_app(self) -> Launcher | None:
        """Its app, or one of its body's or parts'."""
        return self.own_app or app_of([self.body]) or app_of(self.header.tasks)

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
        sig.need_body()
        refuse_endless(sig)
        arguments, _, _ = sig.merged(positional(args, "apply"))
        own = {k: v for k, v in sig.options.items() if k not in ("task_id", "group_id")}
        given = {**own, **{k: v for k, v in options.items() if v is not None}}
        parts = given_app(sig.header.clone(), sig.known_app()).apply(
            arguments, {**sig.kwargs.get("kwargs", {}), **keywords}, root_id=given.get("root_id")
        )
        follows = given_app(sig.body.clone(), sig.known_app())
        for name, link in (("link", follows.link), ("link_error", follows.link_error)):
            for callback in listed(given.pop(name, None)):
                link(callback)
        result = follows.apply((parts.get(propagate=propagate),), **given)
        first_of(result).parent = parts
        return result

    def _with_body(self, kwargs: Mapping[str, Any] | None) -> tuple[Self, dict[str, Any]]:
        keywords = dict(kwargs or {})
        body = keywords.pop("body", None)
        if not body:
            return self, keywords
        sig = self.clone()
        sig.body = maybe_signature(_body(body, None), self.own_app, clone=True)
        return sig, keywords

    def cloned(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
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

    def frozen_at(self, place: Place) -> Expected:
        """Freeze the parts, then the body, whose result is this one's. See ``Signature.freeze``.

        Its own id is that of the group of its parts.
        """
        self.tasks = header = self.header
        parts = header.frozen_at(
            Place(ids=place.ids, chord=self.body, root_id=place.root_id, parent_id=place.parent_id)
        )
        self.options["task_id"] = header.id
        body = self.body
        if body is None:
            return parts
        result = cast(Expected, body.frozen_at(dataclasses.replace(place, parent_id=None)))
        result.first.parent = parts
        return result

    def set_immutable(self, immutable: bool) -> None:
        """Choose whether its parts ignore partial arguments."""
        header = self.header
        header.set_immutable(immutable)
        self._keep(header)

    def link(self, callback: Signature[Any]) -> Any:
        """Call this when the body has succeeded.

        Raises:
            TypeError: it is no signature.
            ValueError: this chord has no body.
        """
        linkable(callback, "link")
        self.need_body()
        self.body.link(callback)
        return callback

    def link_error(self, errback: Signature[Any]) -> Any:
        """Call this when the body has failed, as it does when a part has.

        Raises:
            TypeError: it is no signature.
            ValueError: this chord has no body.
        """
        linkable(errback, "link_error")
        self.need_body()
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

    def need_body(self) -> None:
        """Refuse a chord without a body.

        Raises:
            ValueError: it has none.
        """
        if self.body is None:
            raise ValueError("This chord has no body; write chord(header, body).")

    def _keep(self, header: group[Any]) -> None:
        """Take the parts of a group that was made of them, as a list where they were one."""
        self.tasks = header if isinstance(self.tasks, group) else header.tasks

    def stamped(
        self, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
    ) -> None:
        """Stamp the parts and the body. See ``Signature.stamp``."""
        visit = None if visitor is None else visitor.on_chord_header_start
        stamps = self.stamped_around(visit, visitor, append, headers)
        header = self.header
        header.on_each(lambda task: task.stamped(visitor, append, stamps))
        self._keep(header)
        if visitor is not None:
            visitor.on_chord_header_end(self, **stamps)
        if self.body is not None:
            visited = None if visitor is None else visitor.on_chord_body(self, **stamps) or {}
            of_body = self._stamps(visited, append, stamps)
            self.body.stamped(visitor, append, of_body)

    def __or__(self, other: Signature[S]) -> Signature[S]:  # type: ignore[override]  # as Signature
        """A task joins the body; a chain or a group follows."""
        if not isinstance(other, Signature):
            raise no_signature(other, OPERAND)
        joins = other.unrolled() if isinstance(other, group) else other
        if other["subtask_type"] == "chain" or (joins is other and isinstance(other, group)):
            return super().__or__(other)
        sig: Any = self.clone()
        sig.body = joins if sig.body is None else sig.body | joins
        return cast("Signature[S]", sig)

    @recursive_repr("…")
    def __repr__(self) -> str:
        body, tasks = self.body, self.tasks
        if body is None:
            return f"<chord without body: {tasks!r}>"
        if body["subtask_type"] == "chain" and body.tasks:
            first, rest = body.tasks[0], type(body).of(body.tasks[1:])
            return shortened(first["task"], f"%({first.reprcall(tasks)} | {rest!r})")
        return "%" + shortened(body["task"], body.reprcall(tasks))


_CHORD_PARTS = ("header", "body")


def _body(body: Any, app: Any) -> Any:
    if body is None:
        return None
    if not isinstance(body, Mapping):
        raise no_signature(body, "The body of a chord is a signature, not")
    return maybe_signature(body, app)


def _header(header: Any, app: Any) -> Members:
    if isinstance(header, Mapping):
        header = signature(header, app=app)
    if isinstance(header, Signature) and header["subtask_type"] in ("group", "chain"):
        return cast("Members", header["kwargs"]["tasks"])
    if isinstance(header, Signature):
        return [header]

    def copy(task: Any) -> Signature[Any]:
        if not isinstance(task, Mapping) and hasattr(task, "signature"):
            return given_app(signature(task), app)  # a task itself, which Celery takes here alone
        return given_app(signed(task).clone(), app)

    if isinstance(header, (list, tuple, set, frozenset)) and not isinstance(header, Lazy):
        return [copy(task) for task in header]
    if isinstance(header, str) or not hasattr(header, "__iter__"):
        return [signed(header)]
    return Lazy(map(copy, header))
