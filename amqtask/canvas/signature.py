"""A signature: one call of a task as a value, to be changed, combined, sent and called later.

It is a dictionary in Celery's form, so that it travels in messages as it is. The app it belongs to is an attribute, never in the
dictionary: a signature read from a message gets one from whoever reads it. ``chain``, ``group`` and ``chord`` are in
``chains``, ``groups`` and ``chords``, ``xmap``, ``xstarmap`` and ``chunks`` in ``maps``.

Signatures are values of one thread: nothing guards them against two that change the same one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from amqtask.call import named, new_id, positional
from amqtask.canvas.checks import (
    ENDLESS,
    linkable,
    no_signature,
    refuse_endless,
    refuse_loop,
    well_formed,
)
from amqtask.canvas.form import Form
from amqtask.canvas.freezing import Expected, Ids, Place
from amqtask.canvas.stamping import STAMPED, StampingVisitor, joined, visits
from amqtask.core.workflow import listed
from amqtask.errors import ConfigurationError
from amqtask.results.handle import AsyncResult

if TYPE_CHECKING:
    import typing_extensions

    from amqtask.canvas.primitives import chain

    # What is not known is Any, so that ``group(…)`` needs no annotation.
    R_co = typing_extensions.TypeVar("R_co", covariant=True, default=Any)
else:
    R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
Kind = TypeVar("Kind", bound="type[Signature[Any]]")
Visit = Callable[..., Any]


class Launcher(Protocol):
    """What a signature needs of its app."""

    def registered(self, name: str) -> Any:
        """The task of this name."""
        ...

    def launch(
        self,
        sig: Signature[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """Send a signature, with partial arguments and options; return the handle of its result."""
        ...

    async def alaunch(
        self,
        sig: Signature[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """``launch`` for coroutines."""
        ...


_ALWAYS_FIRST = frozenset({"group_id", STAMPED})
"""Options that keep their first value: a task that changed its group would be missed there."""


_EAGER = (
    *("task_id", "throw", "retries", "link", "link_error", "headers"),
    *("root_id", "parent_id", "group_id", "group_index"),
)
"""Options that ``Task.apply`` takes."""


class Signature(Form, Generic[R_co]):
    """A call of a task: its name, arguments and options. Made by ``task.s(…)``, ``task.signature(…)``, ``signature(…)``.

    Partial arguments, given when it is sent or called, come **before** its own; an immutable signature ignores them.

    Args:
        task: the task's name, the task itself, or a signature in its dictionary form.
        args: positional arguments.
        kwargs: keyword arguments.
        options: as ``apply_async`` takes them.
        type: the task itself, where ``task`` is its name.
        subtask_type: what kind of signature it is, ``None`` for a plain one.
        immutable: whether it ignores partial arguments.
        app: the app it is sent through.
        more: more options.
    """

    __slots__ = ("own_app", "own_type")

    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}
    """The class for each ``subtask_type``."""

    own_app: Any
    """The app it was given; ``app`` looks further."""
    own_type: Any
    """The task it was made of, if it was."""

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,  # noqa: A002  # Celery's name
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more: Any,
    ) -> None:
        self.own_app = app
        self.own_type = type
        if not isinstance(task, str) and isinstance(task, (dict, Mapping)):
            dict.__init__(self, task)
            for name, empty in _EMPTY:
                if self.get(name) is None:
                    self[name] = empty()
            if len(self) < _KEYS:
                self.setdefault("subtask_type", None)
                self.setdefault("immutable", False)
            if not isinstance(self.get("task"), str):
                raise TypeError(f"A signature names its task by a text, not {self.get('task')!r}.")
            return
        called = task if isinstance(task, str) else getattr(task, "name", None)
        if not isinstance(called, str) or not called:
            raise TypeError(f"A signature is made of a task or its name, not {task!r}.")
        if not isinstance(task, str):
            self.own_type = task
        dict.__init__(
            self,
            task=called,
            args=_arguments(args),
            kwargs=_keywords(kwargs),
            options={**_options(options), **more} if options else more,
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # ------------------------------------------------------------ whose it is

    @property
    def app(self) -> Any:
        """The app it is sent through: its own, its task's, or that of a part of it.

        Raises:
            ConfigurationError: none of them has one.
        """
        app = self.known_app()
        if app is None:
            raise ConfigurationError(
                f"The signature {self['task']!r} belongs to no app: make it with app.signature(…) or task.s(…), or pass app=…."
            )
        if not hasattr(app, "launch"):
            raise ConfigurationError(
                f"The signature {self['task']!r} was given {type(app).__name__} as its app, which is no App."
            )
        return app

    def known_app(self) -> Launcher | None:
        """``app``, or ``None`` where there is none."""
        if self.own_app is None and self.own_type is not None:
            return cast("Launcher | None", getattr(self.own_type, "app", None))
        return cast("Launcher | None", self.own_app)

    @property
    def type(self) -> Any:
        """The task.

        Raises:
            NotRegistered: this app does not have it.
            ConfigurationError: there is no app.
        """
        if self.own_type is None:
            return self.app.registered(self["task"])
        return self.own_type

    # ------------------------------------------------------------ here

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Call the task's function, in this thread."""
        args, kwargs, _ = self.merged(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run it here and now, with its callbacks, and return the outcome. Nothing is sent.

        Args:
            args: partial positional arguments.
            kwargs: partial keyword arguments.
            options: as ``apply_async``, those for which it matters; see ``Task.apply`` for its own.

        Returns:
            An ``EagerResult``; of a group, a ``GroupResult`` of them.

        Raises:
            NotRegistered: its task is not here.
            Exception: a link of a chain that is not the last one, or a part of a chord, has raised it.
        """
        given = {name: value for name, value in options.items() if value is not None}
        arguments, keywords, merged = self.merged(
            positional(args, "apply"), named(kwargs, "apply"), given
        )
        shown = {name: merged[name] for name in _EAGER if merged.get(name) is not None}
        if merged.get(STAMPED):
            shown["stamps"] = {name: merged.get(name) for name in merged[STAMPED]}
        return self.type.apply(arguments, keywords, **shown)

    # ------------------------------------------------------------ to a worker

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R_co]:
        """Send it; return when the broker has confirmed that it has it. Partial arguments come before its own."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """``delay`` with options for this time, which come before its own.

        Args:
            args: partial positional arguments.
            kwargs: partial keyword arguments.
            options: as ``Task.apply_async``; ``None`` is the same as leaving one out.

        Raises:
            ConfigurationError: the signature belongs to no app.
            TypeError: arguments that are no sequence or mapping, or an option that nobody knows, of it or of what follows it.
            AmqtaskError: as ``Task.delay``.
        """
        given, keywords = positional(args, "apply_async"), named(kwargs, "apply_async")
        try:
            return cast("AsyncResult[R_co]", self.app.launch(self, given, keywords, options))
        except RecursionError:
            raise ConfigurationError(ENDLESS) from None

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R_co]:
        """``delay`` for coroutines."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """``apply_async`` for coroutines."""
        given, keywords = positional(args, "apply_async"), named(kwargs, "apply_async")
        try:
            result = await self.app.alaunch(self, given, keywords, options)
        except RecursionError:
            raise ConfigurationError(ENDLESS) from None
        return cast("AsyncResult[R_co]", result)

    # ------------------------------------------------------------ other signatures of it

    def merged(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
        """Its arguments and options with partial ones: new positional ones first, new keywords and options instead of old.

        The group and the stamps stay what they are.

        Args:
            args: partial positional arguments.
            kwargs: partial keyword arguments.
            options: partial options.
            force: take arguments although it is immutable.
        """
        own_args, own_kwargs, merged = self["args"], self["kwargs"], self["options"]
        if options:
            own, stamps = merged, merged.get(STAMPED) or ()
            merged = {
                **own,
                **{
                    name: value
                    for name, value in options.items()
                    if name not in own or (name not in _ALWAYS_FIRST and name not in stamps)
                },
            }
        if self["immutable"] and not force:
            return own_args, own_kwargs, merged
        return (
            (*args, *own_args) if args else own_args,
            {**own_kwargs, **kwargs} if kwargs else own_kwargs,
            merged,
        )

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A copy to be changed, with partial arguments and options. Arguments themselves are not copied.

        Raises:
            TypeError: arguments that are no sequence or mapping.
            ConfigurationError: it contains itself.
        """
        try:
            return self.cloned(
                () if args is None else positional(args, "clone"),
                _NOTHING if kwargs is None else named(kwargs, "clone"),
                options,
            )
        except RecursionError:
            raise ConfigurationError(ENDLESS) from None

    def cloned(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Self:
        """``clone``; what each kind of signature does for it."""
        args, kwargs, merged = self.merged(args, kwargs, options)
        return self._copy(args, kwargs, copied(merged) if merged else {})

    def partial(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """The same as ``clone``."""
        return self.clone(args, kwargs, **options)

    def _copy(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
    ) -> Self:
        form = {
            "task": self["task"],
            "args": args if type(args) is tuple else tuple(args),
            "kwargs": dict(kwargs),
            "options": options,
            "subtask_type": self["subtask_type"],
            "immutable": self["immutable"],
        }
        made: Any
        if form["subtask_type"] is None:
            made = dict.__new__(type(self))
            made.update(form)
            made.own_app = self.own_app
        else:
            made = Signature.from_dict(form, app=self.own_app)
        made.own_type = self.own_type
        return cast("Self", made)

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with other arguments or options; what is ``None`` stays."""
        made = self.clone()
        if args is not None:
            made.args = _arguments(args)
        if kwargs is not None:
            made.kwargs = _keywords(kwargs)
        if options is not None:
            made.options = _options(options)
        return made

    # ------------------------------------------------------------ changes in place

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options, and whether it ignores partial arguments; return itself.

        Raises:
            TypeError: ``immutable`` is neither true nor false.
        """
        if immutable is not None:
            if immutable is not True and immutable is not False:
                raise TypeError(
                    f"set() takes options by name, as set(queue='…'); its only other argument is immutable, which is not {immutable!r}."
                )
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Choose whether it ignores partial arguments."""
        self["immutable"] = immutable

    def link(self, callback: Signature[Any]) -> Any:
        """Call this when the task has succeeded, with its result; return the callback.

        Raises:
            TypeError: it is no signature.
            ConfigurationError: it is, or contains, this signature itself.
        """
        linkable(callback, "link")
        refuse_loop(callback, self, "its callback")
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Signature[Any]) -> Any:
        """Call this when the task has failed; return the callback.

        Raises:
            TypeError, ConfigurationError: as ``link``.
        """
        linkable(errback, "link_error")
        refuse_loop(errback, self, "its error callback")
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Signature[Any]) -> Self:
        """``link_error`` that returns the signature itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Any]:
        """Itself, its callbacks, theirs, and so on."""
        found: list[Any] = [self]
        for link in listed(self.options.get("link")):
            found += maybe_signature(link, self.own_app).flatten_links()
        return found

    # ------------------------------------------------------------ ids

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
        """Give it, and every part of it, the id of its result. An id it has stays.

        Args:
            _id: the id, if it has none; a new one when left out.
            group_id: the group it is a member of.
            chord: the body of the chord it is a part of.
            root_id: the task that began the workflow.
            parent_id: the task it follows from.
            group_index: its place in the group.
            ids: where new ids come from. The same sequence of ids gives the same frozen signature.
        """
        place = Place(
            ids=ids,
            id=_id,
            group_id=group_id,
            group_index=group_index,
            chord=chord,
            root_id=root_id,
            parent_id=parent_id,
        )
        try:
            return self.frozen_at(place)
        except RecursionError:
            raise ConfigurationError(ENDLESS) from None

    def frozen_at(self, place: Place) -> Expected:
        """``freeze`` where it belongs; what each kind of signature does for it."""
        options = self.options
        task_id = options.get("task_id")
        if task_id is None:
            task_id = options["task_id"] = place.id or place.ids()
        if place.root_id:
            options["root_id"] = place.root_id
        if place.parent_id:
            options["parent_id"] = place.parent_id
        if place.group_id and "group_id" not in options:
            options["group_id"] = place.group_id
        if place.chord:
            options["chord"] = place.chord
        if place.group_index is not None:
            options["group_index"] = place.group_index
        return Expected(task_id)

    # ------------------------------------------------------------ stamps

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Stamp it, its parts and its callbacks: with these headers, and with those the visitor adds.

        Args:
            visitor: chooses more stamps for each part.
            append_stamps: keep the values of a stamp that is there already, all of them in a list.
            headers: the stamps.

        Raises:
            TypeError: the visitor is none.
            ConfigurationError: it contains itself, or is nested too deeply.
        """
        visits(visitor)
        refuse_endless(self)
        try:
            return self.stamped(visitor, append_stamps, headers)
        except RecursionError:
            raise ConfigurationError(ENDLESS) from None

    def stamped(
        self, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
    ) -> Any:
        """``stamp``; what each kind of signature does for it."""
        self.stamp_links(visitor, append, **headers)
        visited = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**self._stamps(visited, append, headers))

    def stamped_around(
        self,
        visit: Visit | None,
        visitor: StampingVisitor | None,
        append: bool,
        headers: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The stamps for the parts of this one, whose callbacks get them here.

        Args:
            visit: the visitor's method for where such a signature starts.
            visitor: the visitor.
            append: as ``stamp``.
            headers: the stamps so far.
        """
        visited = None if visit is None else visit(self, **headers) or {}
        stamps = self._stamps(visited, append, headers)
        self.stamp_links(visitor, append, **stamps)
        return stamps

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp its callbacks, ``link`` and ``link_error``, without its own stamps."""
        for name, hook in (("link", "on_callback"), ("link_error", "on_errback")):
            links = listed(self.options.get(name))
            if not links:
                continue
            stamps = copy.deepcopy(headers)
            self.options[name] = made = []
            for link in links:
                sig = maybe_signature(link, self.own_app)
                visited = None if visitor is None else getattr(visitor, hook)(sig, **stamps) or {}
                stamps = joined(stamps, visited, None, append_stamps)
                sig.stamped(visitor, append_stamps, stamps)
                made.append(sig)

    def _stamps(
        self, visited: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]
    ) -> dict[str, Any]:
        return joined(headers, visited, self.options, append)

    # ------------------------------------------------------------ together

    def __or__(self, other: Signature[S]) -> chain[S]:  # type: ignore[override]  # a chain, not a union of dictionaries
        """``a | b``: the second gets the first's result.

        Raises:
            TypeError: the second is no signature.
        """
        if not isinstance(other, Signature):
            raise no_signature(other, OPERAND)
        return self.TYPES["chain"].after(self, other)  # type: ignore[attr-defined,no-any-return]  # chain's own

    def __ror__(self, other: Any) -> Any:
        raise no_signature(other, OPERAND)

    def __ior__(self, other: Signature[S]) -> chain[S]:  # type: ignore[override]  # as __or__
        return self.__or__(other)

    def __invert__(self) -> R_co:
        """``~sig`` sends it and waits for its result."""
        return self.apply_async().get()

    def unrolled(self) -> Signature[Any]:
        """What a chain takes in its place: the only member of a group of one, else itself."""
        return self

    # ------------------------------------------------------------ as a value

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[Kind], Kind]:
        """Have ``from_dict`` make signatures of a kind with the decorated class."""

        def register(kind: Kind) -> Kind:
            cls.TYPES[name or kind.__name__] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Signature[Any]:
        """A signature of its dictionary form, whatever kind it is.

        Raises:
            ValueError: a kind that nobody knows.
            TypeError: it names no task, or a place of it has the wrong type.
            ConfigurationError: it is nested too deeply, as ``clone``.
        """
        well_formed(d)
        kind = d.get("subtask_type")
        if kind:
            target = cls.TYPES.get(kind)
            if target is None:
                raise ValueError(f"There are no signatures of the kind {kind!r}.")
            if target is not cls:
                try:
                    return target.from_dict(d, app=app)
                except RecursionError:
                    raise ConfigurationError(ENDLESS) from None
        return Signature(d, app=app)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone()

    def __copy__(self) -> Self:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def graph_mermaid(self) -> str:
        """What it will run and in which order, as a mermaid flowchart. Nothing is sent; a generator is asked for 10,000 members at most."""
        from amqtask.canvas import graph  # loaded by those who draw

        return graph.mermaid(self)

    def graph_svg(self) -> str:
        """The same as an SVG picture."""
        from amqtask.canvas import graph

        return graph.svg(self)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text, with partial arguments."""
        arguments, keywords, _ = self.merged(args, kwargs, None, force=True)
        shown = [repr(value) for value in arguments]
        shown += [f"{name}={value!r}" for name, value in keywords.items()]
        return f"{self['task']}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()


_KEYS = 6
_EMPTY: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("args", tuple),
    ("kwargs", dict),
    ("options", dict),
)
_NOTHING: Mapping[str, Any] = {}

OPERAND = "What | joins are signatures, not"


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature[Any]:
    """A signature of a task, its name, or a signature's dictionary form; a copy of a signature.

    Args:
        varies: the task, its name, or a dictionary.
        args: as ``Signature``.
        kwargs: as ``Signature``; ``app`` is the app to send it through.
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """A signature of its dictionary form; a signature and ``None`` stay what they are.

    Args:
        d: the dictionary, the signature, or ``None``.
        app: the app it shall belong to.
        clone: copy a signature.
    """
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
        if app is not None:
            d.own_app = app
    elif isinstance(d, Mapping):
        d = Signature.from_dict(d, app=app)
    return d


maybe_subtask = maybe_signature


def copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of options that can be changed without changing these.

    The body of the chord that a frozen part belongs to (``chord``) stays the one it is: all parts have the same, and it may
    hold more chords, whose parts have theirs.
    """
    memo: dict[int, Any] = {}
    return {
        name: value
        if isinstance(value, _UNCHANGING) or name == "chord"
        else copy.deepcopy(value, memo)
        for name, value in options.items()
    }


_UNCHANGING = (str, int, float, bool, bytes, type(None))


def shortened(task: str, text: str) -> str:
    """A text about several tasks of a module, that names the module only once."""
    module = f"{task.rpartition('.')[0]}."
    at = text.find(module) if len(module) > 1 else -1
    if at < 0:
        return text
    end = at + len(module)
    # only where a name begins: "app." is no part of "webapp." or "my-app."
    return text[:end] + re.sub(rf"(?<![\w.-]){re.escape(module)}", "", text[end:])


def _arguments(args: Any) -> tuple[Any, ...]:
    if type(args) is tuple:
        return args
    if args is None:
        return ()
    if isinstance(args, (str, bytes, Mapping)) or not hasattr(args, "__iter__"):
        raise TypeError(
            f"A signature takes the task's arguments as a tuple or a list, not {type(args).__name__}; for one argument write (value,)."
        )
    return tuple(args)


def _keywords(kwargs: Any) -> Any:
    if kwargs is None:
        return {}
    if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
        raise TypeError(
            f"A signature takes the task's keyword arguments as a mapping, not {type(kwargs).__name__}."
        )
    return kwargs


def _options(options: Any) -> Mapping[str, Any]:
    if not isinstance(options, Mapping):
        raise TypeError(
            f"A signature takes its options as a mapping, not {type(options).__name__}; or write them by name, as queue='…'."
        )
    return options
