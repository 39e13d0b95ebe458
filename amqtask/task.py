"""A task: a function that can be called here, and sent to be called by a worker.

``Task[P, R]`` keeps the function's parameters and result for type checkers, so ``delay()`` is checked like the function
itself. A task sends through the ``Sender`` it was given (the ``App``); it knows nothing about brokers.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from amqtask.arguments import Parameters
from amqtask.attempt import asked, automatic, iso, raised, too_many
from amqtask.call import Call, RetryOptions, SendOptions, make_call, named, new_id, positional
from amqtask.canvas import eager
from amqtask.canvas.maps import chunks, xmap, xstarmap
from amqtask.canvas.signature import Signature
from amqtask.canvas.within import addition, replacement
from amqtask.core.result import FAILURE, IGNORED, REJECTED, SUCCESS, format_traceback
from amqtask.core.retry import Again, GiveUp, Plan
from amqtask.core.workflow import listed
from amqtask.errors import Ignore, MaxRetriesExceededError, Reject, Retry
from amqtask.options import Options
from amqtask.request import DIRECT, DeliveryInfo, Request, current, running
from amqtask.results.eager import EagerResult
from amqtask.results.handle import AsyncResult
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
        retry_plan: how ``retry`` retries when it is told nothing.
        retry_rules: after which exceptions the task runs again by itself; ``None`` when after none.
    """

    MaxRetriesExceededError: ClassVar = MaxRetriesExceededError

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
        self.retry_plan = options.retry_plan()
        self.retry_rules = options.retry_rules()
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
        request = running()
        return request if request is not None and request.task == self.name else DIRECT

    def is_aborted(self) -> bool:
        """Whether somebody has asked the message being run to stop: ``AsyncResult.abort``, ``app.control.abort``.

        For a loop to look at now and then; it costs a few microseconds at most. What the task then returns is its result. Works in
        every pool, in the task's own thread, coroutine or greenlet; elsewhere keep ``request = self.request`` and ask
        ``request.is_aborted()``.
        """
        return self.request.is_aborted()

    @property
    def call_defaults(self) -> Mapping[str, Any]:
        """The fields of ``Call`` that the task's own options set."""
        return self._defaults

    @property
    def max_retries(self) -> int | None:
        """How often ``retry`` may be called for one message; ``None`` is without end."""
        return self.options.max_retries

    @property
    def default_retry_delay(self) -> float:
        """Seconds that ``retry`` waits when it is told nothing."""
        return self.options.default_retry_delay

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Unpack[RetryOptions],
    ) -> Retry:
        """Run this message's task again later. Called by the running task itself, function or coroutine; never awaited.

        The next attempt has the same id, and goes to the queue this one came from. It is published when this attempt has
        ended, however it ended: the last call of ``retry`` counts, and only a ``Reject`` raised after it takes its place.

        Args:
            args: new positional arguments.
            kwargs: new keyword arguments.
            exc: why; what the task fails with when it may not be retried any more.
            throw: ``False`` returns the ``Retry`` instead of raising it, so that the task can go on.
            eta: when; without a time zone it is UTC.
            countdown: when, in seconds from now; ``default_retry_delay`` when neither is given.
            max_retries: a limit for this attempt instead of the task's.
            options: what is different in the next attempt's message, see ``RetryOptions``.

        Raises:
            Retry: always, unless ``throw`` is false.
            MaxRetriesExceededError: the limit is reached, and ``exc`` was not given; else ``exc`` itself. Outside a worker
                too, ``exc`` is raised.
            TypeError: an unknown option, or arguments that do not fit the function.
            ValueError: a value that makes no sense.
        """
        request = self.request
        if request.called_directly:
            _raise(exc or Retry("Task can be retried"))
        if args is not None or kwargs is not None:
            args, kwargs = self._parameters.renewed(args, kwargs, request.args, request.kwargs)
            self.check(positional(args, "retry"), named(kwargs, "retry"))
        plan: Plan | None = None
        if exc is not None and self.retry_rules is not None:
            plan = self.retry_rules.policy(exc)
        retry = asked(
            request,
            plan or self.retry_plan,
            exc=exc,
            eta=eta,
            countdown=countdown,
            max_retries=max_retries,
            args=args,
            kwargs=kwargs,
            options=cast("Mapping[str, Any]", options),
        )
        if isinstance(retry, GiveUp):
            if exc is not None:
                _raise(exc)
            raise too_many(
                request,
                retry,
                request.args if args is None else args,
                request.kwargs if kwargs is None else kwargs,
            )
        if throw:
            raise retry
        return retry

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        throw: bool = False,
        retries: int = 0,
        link: Any = None,
        link_error: Any = None,
        headers: Mapping[str, object] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_id: str | None = None,
        group_index: int | None = None,
        stamps: Mapping[str, object] | None = None,
    ) -> EagerResult[R]:
        """Run the task here and now, as a worker would see it, and return its outcome.

        A retry follows at once, without its delay. Callbacks run here too, and are the result's ``children``.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            task_id: the id to run under; a new one when left out.
            throw: raise what the task raises instead of keeping it in the result.
            retries: how often the task shall seem to have been retried.
            link: callbacks, called with the value when the task has succeeded.
            link_error: error callbacks, called when it has failed.
            headers: what ``self.request.headers`` is.
            root_id: the first task of the workflow; by default that of the task that runs in this context, or this one.
            parent_id: the task that it follows from; by default the one that runs in this context.
            group_id: the group that it is in.
            group_index: its place there.
            stamps: its stamps.

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
        caller = running()
        if caller is not None and caller.id is not None:
            parent_id = parent_id or caller.id
            root_id = root_id or caller.root_id
        callbacks, errbacks = listed(link), listed(link_error)
        began = time.time()
        waited = 0.0  # seconds that the delays of its retries would have taken
        while True:
            request = Request(
                id=task_id,
                task=self.name,
                root_id=root_id or task_id,
                parent_id=parent_id,
                group=group_id,
                group_index=group_index,
                retries=retries,
                args=arguments,
                kwargs=keywords,
                headers=headers or {},
                callbacks=callbacks or None,
                errbacks=errbacks or None,
                stamped_headers=None if stamps is None else list(stamps),
                stamps=stamps,
                delivery_info=DeliveryInfo(),
                is_eager=True,
                called_directly=False,
                ignore_result=self.ignore_result,
                first_time=iso(began - waited) if waited else None,
                started=time.monotonic(),
            )
            result = self._attempt(request, throw)
            if isinstance(result, EagerResult):
                if callbacks and result.successful():
                    result.children.extend(
                        eager.after_success(callbacks, result.result, request, self.app)
                    )
                elif errbacks and result.failed():
                    eager.after_failure(
                        errbacks, result.result, result.traceback, request, self.app
                    )
                return result
            again = result.sig
            assert isinstance(again, Again)
            waited += max(0.0, again.due - time.time())
            arguments = arguments if again.args is None else again.args
            keywords = keywords if again.kwargs is None else again.kwargs
            retries += 1

    def _attempt(self, request: Request, throw: bool) -> EagerResult[R] | Retry:
        """One attempt of ``apply``."""
        error: BaseException
        value = None
        token = current.set(request)
        try:
            value = self.run(*request.args, **request.kwargs)
            if self.is_coroutine:
                value = _run_to_end(value)
        except Exception as caught:  # noqa: BLE001  # whatever the task raises is its outcome
            error = caught
        else:
            if request.asked.retry is not None:
                return request.asked.retry
            return EagerResult(cast(str, request.id), value, SUCCESS, name=self.name)
        finally:
            current.reset(token)
        follows = self.follows(request, error)
        if isinstance(follows, Retry):
            return follows
        if isinstance(follows, Ignore | Reject):
            state = IGNORED if isinstance(follows, Ignore) else REJECTED
            return EagerResult(cast(str, request.id), follows, state, name=self.name)
        if throw:
            raise follows
        return EagerResult(
            cast(str, request.id), follows, FAILURE, format_traceback(follows), self.name
        )

    def follows(self, request: Request, error: BaseException) -> BaseException:
        """What an exception of a run comes to: a ``Retry`` whose ``sig`` is the next attempt, or what the run ends with.

        Args:
            request: the run's.
            error: what the function raised.
        """
        if isinstance(error, Reject):
            return error
        if isinstance(error, Retry):
            return raised(request, self.retry_plan, error)
        if request.asked.retry is not None:
            return request.asked.retry
        rules = self.retry_rules
        if rules is None or (
            isinstance(error, TypeError) and not self.accepts(request.args, request.kwargs)
        ):
            return error  # arguments that do not fit now will not fit later
        retry = automatic(request, rules, error)
        return retry if isinstance(retry, Retry) else error

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

    def parameters_left(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        """How many positional arguments the function can take beside these."""
        return self._parameters.left(args, kwargs)

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
            Call(
                id=new_id(),
                task=self.name,
                args=args,
                kwargs=kwargs,
                defaults=self._defaults,
                **self._defaults,
            )
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
            Call(
                id=new_id(),
                task=self.name,
                args=args,
                kwargs=kwargs,
                defaults=self._defaults,
                **self._defaults,
            )
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

    # ------------------------------------------------------------ in workflows

    @property
    def app(self) -> Any:
        """The app it is registered with."""
        return self._sender

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature of this task: a call to be made later, of which some arguments may come then, before these."""
        return Signature(self.name, args, kwargs, type=self, app=self._sender)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature that takes no more arguments: the results of other tasks are not passed to it."""
        return Signature(self.name, args, kwargs, type=self, immutable=True, app=self._sender)

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **more: Any,
    ) -> Signature[R]:
        """A signature with options.

        Args:
            args: positional arguments; others may come before them.
            kwargs: keyword arguments.
            options: as ``apply_async`` takes them.
            immutable: take no more arguments.
            more: more options.
        """
        return Signature(self, args, kwargs, options, immutable=immutable, app=self._sender, **more)

    subtask = signature
    """The same as ``signature``."""

    def map(self, it: Iterable[Any]) -> xmap[list[R]]:
        """A signature of ``[task(x) for x in it]``, in one message."""
        return xmap(self.s(), it, app=self._sender)

    def starmap(self, it: Iterable[Any]) -> xstarmap[list[R]]:
        """A signature of ``[task(*x) for x in it]``, in one message."""
        return xstarmap(self.s(), it, app=self._sender)

    def chunks(self, it: Iterable[Any], n: int) -> chunks[list[list[R]]]:
        """A signature of ``starmap`` in messages of ``n`` items each."""
        return chunks(self.s(), it, n, app=self._sender)

    def replace(self, sig: Any) -> Any:
        """Put a signature in this message's place. Called by the running task itself; ``return self.replace(…)`` reads best.

        It has this task's id, and what was to follow this task follows it: callbacks, errbacks, the rest of the chain, the
        chord. A group gives the list of its values. It is sent when this attempt has ended.

        Args:
            sig: the signature.

        Returns:
            Only in ``apply()``: the value that the signature comes to.

        Raises:
            Ignore: always, in a worker.
            ConfigurationError: the signature is part of a chord, or an empty chain.
            TypeError: it is no signature.
        """
        request = self.request
        made: Any = replacement(request, sig, self._sender)
        if request.is_eager or request.called_directly:
            return made.apply().get()
        request.asked.replacement = made
        request.asked.changes = True
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a part to the chord that this message is a part of. Called by the running task itself.

        The body gets its value after those of the chord's other parts. It is sent when this attempt has ended, unless that
        fails.

        Args:
            sig: the signature.
            lazy: do not send it: the caller does, with ``delay()`` of what is returned.

        Returns:
            The handle of its result; the signature where it is lazy.

        Raises:
            ValueError: the running task is not part of a chord.
            TypeError: it is no signature.
        """
        request = self.request
        made = addition(request, sig, self._sender)
        task_id = made.options["task_id"]
        request.asked.add(made, task_id, lazy)
        return made if lazy else self.app.AsyncResult(task_id)

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
            Call(id=new_id(), task=name, args=args, kwargs=kwargs, defaults=defaults, **defaults)
            for args, kwargs in pairs
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


AbortableTask = Task
"""Every task can be aborted. The name is for code that was written for Celery: ``@app.task(bind=True, base=AbortableTask)``."""


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


def _raise(error: BaseException) -> NoReturn:
    """Raise an exception; inside an ``except`` block with the one handled there as its cause, or as that itself."""
    handled = sys.exc_info()[1]
    if handled is None or handled is error:
        raise error
    raise error from handled


def _run_to_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # only coroutine tasks need it

    return asyncio.run(coroutine)
