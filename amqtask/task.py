"""A task: a function that can be called here, and sent to be called by a worker.

``Task[P, R]`` keeps the function's parameters and result for type checkers, so ``delay()`` is checked like the function
itself. A task sends through the ``Sender`` it was given (the ``App``); it knows nothing about brokers.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from amqtask.arguments import Parameters
from amqtask.call import Call, SendOptions, make_call, named, new_id, positional
from amqtask.core.result import FAILURE, SUCCESS, format_traceback
from amqtask.options import Options
from amqtask.request import DIRECT, DeliveryInfo, Request, current
from amqtask.results.handle import AsyncResult, EagerResult
from amqtask.results.loops import running_loop
from amqtask.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

Arguments = tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""The arguments of one call of many: positional as a tuple, or keywords as a mapping."""


class Sender(Protocol):
    """What a task needs of its app. Any thread; the coroutines in any event loop."""

    def send(self, call: Call) -> AsyncResult[Any]:
        """Return when the broker has the call (or, in a batch, when it is on its way)."""
        ...

    def send_many(self, calls: Iterator[Call]) -> list[AsyncResult[Any]]:
        """Return when the broker has all of them."""
        ...

    async def asend(self, call: Call) -> AsyncResult[Any]:
        """``send`` for coroutines."""
        ...

    async def asend_many(self, calls: Iterator[Call]) -> list[AsyncResult[Any]]:
        """``send_many`` for coroutines."""
        ...


class Task(Generic[P, R]):
    """A function registered with an app. Made by ``@app.task``.

    Calling the task calls the function, here and now. Sending it (``delay`` and its relatives) may be done from any thread,
    the ``a`` twins from any event loop.

    Attributes:
        name: the name that travels in messages.
        function: the function as it was written.
        run: the function to call with a message's arguments; for a bound task it passes the task itself first.
        options: the checked options of ``@app.task``.
        bind: the function takes the task as its first argument.
        is_coroutine: the function is a coroutine function.
        ignore_result: this process asks for no results of the task.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        options: Options,
        settings: Settings,
        sender: Sender,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.function = function
        self.options = options
        self.bind = options.bind
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.run: Callable[..., Any] = (
            types.MethodType(function, self) if options.bind else function
        )
        self.ignore_result: bool = (
            settings.task_ignore_result if options.ignore_result is None else options.ignore_result
        )
        self._sender = sender
        self._parameters = Parameters(function, options.bind)
        self._defaults = options.call_defaults()
        # A task that ignores its result says so in the message: the worker that runs it may have other settings.
        self._defaults["ignore_result"] = True if self.ignore_result else None

    # ------------------------------------------------------------ here

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, in this thread."""
        return cast(R, self.run(*args, **kwargs))

    @property
    def request(self) -> Request:
        """What is known about the message being run; nothing but defaults when no worker runs this task."""
        request = current.get()
        return request if request is not None and request.task == self.name else DIRECT

    @property
    def call_defaults(self) -> Mapping[str, Any]:
        """The fields of ``Call`` that the task's own options set."""
        return self._defaults

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        throw: bool = False,
    ) -> EagerResult[R]:
        """Run the task here and now, as a worker would see it, and return its outcome.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            task_id: the id to run under; a new one when left out.
            throw: raise what the task raises instead of keeping it in the result.

        Raises:
            TypeError: the arguments do not fit.
            RuntimeError: a coroutine task inside a running event loop, where it can simply be awaited.
        """
        arguments, keywords = positional(args, "apply"), named(kwargs, "apply")
        self.check(arguments, keywords)
        if self.is_coroutine and running_loop() is not None:
            raise RuntimeError(
                f"apply() cannot run the coroutine task {self.name} inside a running event loop; await it."
            )
        task_id = task_id or new_id()
        token = current.set(
            Request(
                id=task_id,
                task=self.name,
                root_id=task_id,
                args=arguments,
                kwargs=keywords,
                delivery_info=DeliveryInfo(),
                is_eager=True,
                called_directly=False,
                ignore_result=self.ignore_result,
            )
        )
        try:
            value = self.run(*arguments, **keywords)
            if self.is_coroutine:
                value = _run_to_end(value)
        except Exception as error:
            if throw:
                raise
            return EagerResult(task_id, self.name, FAILURE, error, format_traceback(error))
        finally:
            current.reset(token)
        return EagerResult(task_id, self.name, SUCCESS, value)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Do nothing when the function can be called so (or ``typing=False``).

        Raises:
            TypeError: as calling the function would, with its name.
        """
        if self.options.typing:
            self._parameters.check(args, kwargs)

    def accepts(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the function can be called so."""
        try:
            self._parameters.check(args, kwargs)
        except TypeError:
            return False
        return True

    def tracks_started(self, settings: Settings) -> bool:
        """Whether a worker with these settings sends the state STARTED of this task."""
        own = self.options.track_started
        return settings.task_track_started if own is None else own

    # ------------------------------------------------------------ to a worker

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task; return when the broker has confirmed that it has it.

        Inside ``with app.batch():`` it returns at once, and the end of the block waits for the confirms.

        Raises:
            TypeError: the arguments do not fit the function.
            EncodeError: an argument cannot be written by the serializer.
            PayloadTooLarge: the message is above the limit.
            NoRoute: no route leads the task to a queue.
            Unroutable, PublishNacked, PublishBlocked, ConfirmTimeout, ConnectFailed: the broker did not take it.
        """
        if self.options.typing:
            self._parameters.check(args, kwargs)
        return self._sender.send(
            Call(id=new_id(), task=self.name, args=args, kwargs=kwargs, **self._defaults)
        )

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]:
        """``delay`` with options for this call, which come before the task's own.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            options: see ``SendOptions``.

        Raises:
            TypeError: the arguments do not fit, or an option is unknown.
            ValueError: an option's value makes no sense.
            Unsupported: an option this version cannot honour.
            AmqtaskError: as ``delay``.
        """
        return self._sender.send(self._call(args, kwargs, options, "apply_async"))

    def delay_many(self, items: Iterable[Arguments]) -> list[AsyncResult[R]]:
        """Send the task once per item, without waiting in between; return when the broker has confirmed all.

        The arguments of every item are checked before the first is sent.

        Args:
            items: each a tuple of positional arguments or a mapping of keyword arguments.

        Raises:
            TypeError: an item that is neither, or does not fit the function; nothing was sent.
            EncodeError, PayloadTooLarge: an item cannot be sent; those before it were.
            BrokerError: the first error of those the broker did not take; the text says how many.
        """
        return self._sender.send_many(self._calls(items, "delay_many"))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """``delay`` for coroutines: the event loop goes on while the broker confirms."""
        if self.options.typing:
            self._parameters.check(args, kwargs)
        return await self._sender.asend(
            Call(id=new_id(), task=self.name, args=args, kwargs=kwargs, **self._defaults)
        )

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]:
        """``apply_async`` for coroutines."""
        return await self._sender.asend(self._call(args, kwargs, options, "aapply_async"))

    async def adelay_many(self, items: Iterable[Arguments]) -> list[AsyncResult[R]]:
        """``delay_many`` for coroutines."""
        return await self._sender.asend_many(self._calls(items, "adelay_many"))

    # ------------------------------------------------------------ inside

    def _call(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: SendOptions,
        function: str,
    ) -> Call:
        call = make_call(self.name, args, kwargs, self._defaults, cast(Any, options), function)
        self.check(call.args, call.kwargs)
        return call

    def _calls(self, items: Iterable[Arguments], function: str) -> Iterator[Call]:
        pairs = []
        for index, item in enumerate(items):
            if isinstance(item, (tuple, list)):
                args, kwargs = item, _NO_KEYWORDS
            elif isinstance(item, Mapping):
                args, kwargs = (), named(item, function)
            else:
                raise TypeError(
                    f"{function}() takes tuples of arguments or mappings of keyword arguments; "
                    f"item {index} is of type {type(item).__name__}: for one argument write (value,)."
                )
            try:
                self.check(args, kwargs)
            except TypeError as error:
                raise TypeError(f"{error} (item {index})") from None
            pairs.append((args, kwargs))
        name, defaults = self.name, self._defaults
        return (
            Call(id=new_id(), task=name, args=args, kwargs=kwargs, **defaults)
            for args, kwargs in pairs
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class CoroutineTask(Task[P, R]):
    """A task whose function is a coroutine function. ``R`` is what awaiting it gives."""

    def __call__(  # type: ignore[override]  # calling a coroutine function gives a coroutine of R; sending it, R
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Call the function; await what it returns."""
        return cast("Coroutine[Any, Any, R]", self.run(*args, **kwargs))


class Decorator(Protocol):
    """What ``@app.task(...)`` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BindDecorator(Protocol):
    """What ``@app.task(bind=True, ...)`` returns: callers do not give the first argument."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Task[..., Any], P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Task[..., Any], P], R], /) -> Task[P, R]: ...


_NO_KEYWORDS: Mapping[str, Any] = {}


def _run_to_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # only coroutine tasks need it

    return asyncio.run(coroutine)
