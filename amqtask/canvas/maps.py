"""``xmap``, ``xstarmap`` and ``chunks``: one task for each item of a series, in one message or in a few."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

from amqtask.canvas.checks import called, iterable, part, sized, well_formed
from amqtask.canvas.groups import group
from amqtask.canvas.lazy import Lazy
from amqtask.canvas.signature import Launcher, R_co, Signature, copied, maybe_signature


class _Series(Signature[R_co]):
    """A task and the items it is called with, one worker doing all of a message. It ignores partial arguments."""

    __slots__ = ()

    NAME: ClassVar[str]
    PARTS: ClassVar[tuple[str, ...]] = ("task", "it")

    def begin(self, kwargs: Mapping[str, Any], options: dict[str, Any]) -> None:
        """Be a signature of the built-in task, with these arguments."""
        app = options.pop("app", None)
        Signature.__init__(self, self.NAME, (), kwargs, options, immutable=True, app=app)

    @property
    def inner(self) -> Signature[Any]:
        """The signature of the task that is called."""
        return cast("Signature[Any]", maybe_signature(part(self, "task")))

    def known_app(self) -> Launcher | None:
        """Its app, or its task's."""
        return self.own_app or self.inner.known_app()

    def cloned(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Self:
        """A copy, of the same items; it ignores partial arguments."""
        _, _, merged = self.merged(None, None, options)
        made = type(self).__new__(type(self))
        made.begin(dict(self.kwargs), {"app": self.own_app})
        made["options"] = copied(merged)
        return made

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """One of its dictionary form.

        Raises:
            TypeError, ValueError: it is not.
        """
        well_formed(d)
        iterable(part(d, "it"), cls.__name__)
        if "n" in cls.PARTS:
            sized(part(d, "n"))
        made = cls.__new__(cls)
        made.begin({**d["kwargs"], "task": called(part(d, "task"), cls.__name__)}, {"app": app})
        made.options.update(d.get("options") or {})
        return made


class _Map(_Series[R_co]):
    __slots__ = ()

    CALL: ClassVar[str]

    def __init__(self, task: Signature[Any], it: Iterable[Any], **options: Any) -> None:
        kind = type(self).__name__
        self.begin({"task": called(task, kind), "it": _items(it, kind)}, options)

    def __repr__(self) -> str:
        shown = repr(self["kwargs"]["it"])
        if len(shown) >= _SHOWN:
            shown = shown[:_SHOWN].rsplit(" ", 1)[0] + "..."
        return f"[{self.inner['task']}({self.CALL}) for x in {shown}]"


@Signature.register_type("xmap")
class xmap(_Map[R_co]):  # noqa: N801  # Celery's name
    """``[task(x) for x in it]``, in one message.

    Args:
        task: the signature of the task.
        it: the arguments, one for each call.
        options: options of ``apply_async``.
    """

    __slots__ = ()

    NAME = "celery.map"
    CALL = "x"


@Signature.register_type("xstarmap")
class xstarmap(_Map[R_co]):  # noqa: N801  # Celery's name
    """``[task(*x) for x in it]``, in one message.

    Args:
        task: the signature of the task.
        it: the arguments, a tuple for each call.
        options: options of ``apply_async``.
    """

    __slots__ = ()

    NAME = "celery.starmap"
    CALL = "*x"


@Signature.register_type("chunks")
class chunks(_Series[R_co]):  # noqa: N801  # Celery's name
    """``xstarmap`` of ``n`` items at a time: a group of messages, whose result is a list of lists.

    Args:
        task: the signature of the task.
        it: the arguments, a tuple for each call.
        n: how many calls a message is for.
        options: options of ``apply_async``.
    """

    __slots__ = ()

    NAME = "celery.chunks"
    PARTS = ("task", "it", "n")

    def __init__(self, task: Signature[Any], it: Iterable[Any], n: int, **options: Any) -> None:
        self.begin(
            {"task": called(task, "chunks"), "it": _items(it, "chunks"), "n": sized(n)}, options
        )

    def __call__(self, *_args: Any, **options: Any) -> Any:
        """Send them."""
        return self.apply_async(**options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send the group of them."""
        return self.group().apply_async(args, kwargs, **options)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """``apply_async`` for coroutines."""
        return await self.group().aapply_async(args, kwargs, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run the group of them here."""
        return self.group().apply(args, kwargs, **options)

    def group(self) -> group[Any]:
        """The group of ``xstarmap``s that it stands for, made as its items come."""
        task, app = self["kwargs"]["task"], self.own_app
        parts = _parts(iter(self["kwargs"]["it"]), self["kwargs"]["n"])
        made: group[Any] = group((xstarmap(task, part, app=app) for part in parts), app=app)
        made.options.update(copied(self.options))
        return made

    def unrolled(self) -> Signature[Any]:
        """The group."""
        return self.group()

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Any = None) -> Any:
        """Send the chunks of a series."""
        return cls(task, it, n, app=app)()


_SHOWN = 100  # characters of a series


def _items(it: Iterable[Any], kind: str) -> Sequence[Any]:
    items = iterable(it, kind)
    return items if isinstance(items, (list, tuple)) else Lazy(items)


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(itertools.islice(items, size)):
        yield part
