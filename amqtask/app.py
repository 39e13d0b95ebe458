"""The application: its tasks, its settings and topology, and its way to the broker.

An ``App`` is explicit: nothing is global but the list of apps that ``atexit`` and ``fork`` must reach. Creating one costs
nothing: the topology is read, and a connection made, when first needed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import os
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import msgspec

from amqtask.batch import DELAYED_WINDOW, Awaits, Batch
from amqtask.builtin import builtins
from amqtask.call import Call, SendOptions, make_call
from amqtask.canvas.signature import Signature, signature
from amqtask.composing import Composer, Sending
from amqtask.control import Control
from amqtask.core import codec, compression, serialization
from amqtask.core.message import Envelope, Publication
from amqtask.core.result import attach_remote_traceback, exception_from_wire
from amqtask.core.workflow import Sig
from amqtask.errors import (
    AlreadyRegistered,
    ConfigurationError,
    ConnectionLost,
    NotRegistered,
    Unroutable,
)
from amqtask.launching import Launching, alone, result_elsewhere
from amqtask.options import Options, TaskOptions
from amqtask.request import current
from amqtask.results import handle
from amqtask.results.base import ResultBase
from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited, Pending
from amqtask.results.record import Known, read_reply
from amqtask.settings import Settings
from amqtask.task import BindDecorator, CoroutineTask, Decorator, Task
from amqtask.topology.ladder import Ladder, prefix_of
from amqtask.topology.model import Delays, Topology
from amqtask.topology.names import did_you_mean
from amqtask.topology.parse import load
from amqtask.topology.routes import Router, default_topology

if TYPE_CHECKING:
    import asyncio

    from amqtask.amqp.address import Address
    from amqtask.amqp.aio.publisher import AioPublisher
    from amqtask.amqp.ports import Publisher
    from amqtask.amqp.threaded.loop import IoThread
    from amqtask.client import Client
    from amqtask.loop_client import AsyncBatch, LoopClient

P = ParamSpec("P")
R = TypeVar("R")

BROKER_URL_VARIABLE = "AMQTASK_BROKER_URL"
DEFAULT_BROKER_URL = "amqp://guest:guest@localhost//"
CLOSE_TIMEOUT = 10.0  # seconds

# The innermost ``with app.batch():`` and ``async with app.abatch():`` of this context.
_batch: ContextVar[Batch | None] = ContextVar("amqtask_batch", default=None)
_async_batch: ContextVar[AsyncBatch | None] = ContextVar("amqtask_abatch", default=None)


class App:
    """An application: the tasks of a service and where they go.

    Every method may be called from any thread, those that begin with ``a`` from any event loop. A forked child gets
    connections of its own with its first use.

    Args:
        name: shown in connection names; also the module part of the names of tasks defined in ``__main__``.
        topology: a YAML file, or a ``Topology``; without one there is a single queue, ``task_default_queue``. A relative
            path is looked for from the working directory, then from the folder of the module that creates the app, upwards.
        broker_url: where the broker is, several separated by ``;``. When left out: the environment's
            ``AMQTASK_BROKER_URL``, the setting ``broker_url``, ``amqp://guest:guest@localhost//``.
        settings: settings by name.
        overrides: settings as keyword arguments; they come before ``settings``.

    Raises:
        ConfigurationError: an unknown setting, or a value of the wrong type.
    """

    def __init__(
        self,
        name: str,
        *,
        topology: str | os.PathLike[str] | Topology | None = None,
        broker_url: str | None = None,
        settings: Mapping[str, Any] | Settings | None = None,
        **overrides: Any,
    ) -> None:
        if not name or not _is_text(name):
            raise ConfigurationError(
                f"An app needs a name, a text that is not empty, not {name!r}."
            )
        self.name = name
        if isinstance(settings, Settings):
            self.settings = settings.replace(**overrides) if overrides else settings
        else:
            self.settings = Settings.parse({**(settings or {}), **overrides})
        _check_formats(self.settings)
        self._broker_url = broker_url
        self._topology_source = topology
        self._home = _folder_of_caller()
        self._topology: Topology | None = None  # guarded by _lock, then never replaced
        self._router: Router | None = None  # the same
        self._tasks: dict[str, Task[..., Any]] = {}
        self._modules: set[str] = (
            set()
        )  # packages of the tasks: where exceptions may be imported from
        self._limits = codec.Limits(
            message_max_bytes=self.settings.message_max_bytes,
            headers_max_bytes=self.settings.headers_max_bytes,
            decompressed_max_bytes=self.settings.decompressed_max_bytes,
        )
        self._accept = serialization.accepted(self.settings.accept_content)
        self.control = Control(self)
        self._begin()
        _apps.add(self)

    def _begin(self) -> None:
        """Everything that belongs to one process, new."""
        self._lock = threading.Lock()
        self._pending = Pending(self._read_reply)
        self._client: Client | None = None  # guarded by _lock
        self._loop_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient] = (
            weakref.WeakKeyDictionary()
        )  # guarded by _lock
        self._id = uuid.uuid4().hex
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        self._composer = Composer(self, self.settings, self._limits, self._origin)

    # ------------------------------------------------------------ tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BindDecorator: ...
    @overload
    def task(
        self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> Decorator: ...
    def task(self, *function: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(option=…)``.

        The task is named ``module.function``. See ``TaskOptions`` for the options.

        Args:
            function: the function, when there are no options.
            options: ``bind=True`` gives the function the task itself as its first argument, to read ``self.request``;
                for the others see ``TaskOptions``.

        Raises:
            ConfigurationError: an unknown option, with the nearest known one, or a value that cannot work.
            AlreadyRegistered: another function has this name.
        """
        if not function:
            return lambda function: self._register(function, options)
        if len(function) > 1 or options:
            raise ConfigurationError(
                "Write @app.task, or @app.task(option=…) with keyword arguments only."
            )
        return self._register(function[0], options)

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The registered tasks by name; a live view."""
        return MappingProxyType(self._tasks)

    def registered(self, name: str) -> Task[..., Any]:
        """The task of this name, one of ``builtins`` among others.

        Raises:
            NotRegistered: there is none; the message names the nearest.
        """
        task = self._tasks.get(name) or self.builtins.get(name)
        if task is None:
            near = did_you_mean(name, self._tasks) or "; import the module that defines it."
            raise NotRegistered(f"App {self.name!r} has no task {name!r}{near}")
        return task

    @functools.cached_property
    def builtins(self) -> Mapping[str, Task[..., Any]]:
        """The tasks that every app has, by name: see ``amqtask.builtin``."""
        return builtins(self)

    def _register(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Task[..., Any]:
        if isinstance(function, Task):
            raise ConfigurationError(
                f"{function.name} is a task already; decorate a function once."
            )
        if not callable(function):
            raise ConfigurationError(f"@app.task decorates a function, not {function!r}.")
        shown = f"{getattr(function, '__name__', function)!s}"
        if values.get("base") is not None and values["base"] not in (Task, CoroutineTask):
            raise ConfigurationError(
                f"Task {shown}: base takes Task or AbortableTask, which every task is; there are no task classes of one's own."
            )
        options = Options.parse(values, shown)
        name = options.name or _task_name(self.name, function)
        _check_name(name)
        for kind, check in (
            ("serializer", serialization.serializer),
            ("compression", compression.mime_type),
        ):
            value = getattr(options, kind)
            if value is not None:
                check(value)
        known = self._tasks.get(name)
        if known is not None and not _same_function(known.function, function):
            raise AlreadyRegistered(
                f"Task name {name!r} is taken by {_place(known.function)}; give {_place(function)} "
                "another with name=…."
            )
        made: type[Task[..., Any]] = CoroutineTask if _is_coroutine(function) else Task
        task = made(function, name=name, options=options, settings=self.settings, sender=self)
        self._tasks[name] = task
        module = str(getattr(function, "__module__", "")).partition(".")[0]
        if module and module != "__main__":
            self._modules.add(module)
        return task

    # ------------------------------------------------------------ configuration

    @property
    def broker_url(self) -> str:
        """The broker's URL, password and all: the argument, the environment's, the setting's, or the default."""
        return (
            self._broker_url
            or os.environ.get(BROKER_URL_VARIABLE)
            or self.settings.broker_url
            or DEFAULT_BROKER_URL
        )

    @broker_url.setter
    def broker_url(self, url: str) -> None:
        """Put another broker before all of these, as the command line's ``-b`` does; before the first connection."""
        self._broker_url = url

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The brokers to try, in order, in the topology's virtual host; shuffled where the settings say so.

        Raises:
            ConfigurationError: the URL has a mistake, or the topology cannot be read.
        """
        # with the first connection
        from amqtask.amqp.address import in_order, in_vhost, parse_addresses

        found = in_vhost(parse_addresses(self.broker_url), self.topology.vhost)
        return in_order(found, self.settings.broker_failover_strategy)

    @property
    def topology(self) -> Topology:
        """The app's topology; read from its file on first use.

        Raises:
            ConfigurationError: the file is not there.
            TopologyError: it has mistakes; all are listed.
        """
        if self._topology is None:
            with self._lock:
                if self._topology is None:
                    self._topology = self._load_topology()
        return self._topology

    @property
    def has_topology_file(self) -> bool:
        """Whether the topology comes from a file, which `amqtask topology apply` takes by its name."""
        return isinstance(self._topology_source, (str, os.PathLike))

    @property
    def router(self) -> Router:
        """Finds the exchange and the routing key of a task.

        Raises:
            ConfigurationError: a route leads nowhere, or the topology cannot be read.
        """
        if self._router is None:
            own = self.topology if self._topology_source is not None else None
            router = Router(own, self.settings.task_routes, self.settings.task_default_queue)
            with self._lock:
                if self._router is None:
                    self._router = router
        return self._router

    @property
    def ladder(self) -> Ladder:
        """The delay ladder that what is sent for later waits in.

        Raises:
            ConfigurationError, TopologyError: as ``topology``.
        """
        return Ladder(self.topology.delays.prefix)

    def freeze(self) -> None:
        """Read what is read lazily and close what is open, so that processes forked from this one share the work.

        Raises:
            ConfigurationError: as ``topology`` and ``router``.
        """
        _ = self.router
        _ = self.topology
        self.close()

    def _load_topology(self) -> Topology:
        source = self._topology_source
        if isinstance(source, (str, os.PathLike)):
            return load(_find_file(Path(source), self._home))
        topology = source or default_topology(self.settings.task_default_queue)
        if topology.delays.prefix:
            return topology
        delays = Delays(prefix=prefix_of(self.name), apply=topology.delays.apply)
        return msgspec.structs.replace(topology, delays=delays)

    # ------------------------------------------------------------ sending

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> handle.AsyncResult[Any]:
        """Send a task by name, registered here or not; return when the broker has confirmed that it has it.

        Arguments are not checked. A task registered here lends its own options.

        Args:
            name: the task's full name.
            args: positional arguments.
            kwargs: keyword arguments.
            options: see ``SendOptions``.

        Raises:
            TypeError: an unknown option.
            AmqtaskError: as ``Task.delay``.
        """
        return self.send(self._named_call(name, args, kwargs, options, "send_task"))

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> handle.AsyncResult[Any]:
        """``send_task`` for coroutines."""
        return await self.asend(self._named_call(name, args, kwargs, options, "asend_task"))

    def AsyncResult(  # noqa: N802  # Celery's name for it
        self, task_id: str, *, parent: ResultBase | None = None
    ) -> handle.AsyncResult[Any]:
        """A handle for a task that this process sent, by its id. An id it did not send stays PENDING.

        Args:
            task_id: the task's id.
            parent: the handle of what came before it in its chain.
        """
        entry = self._pending.expect(task_id)
        return handle.AsyncResult(entry, task_id, None, self.control, parent)

    def signature(
        self,
        varies: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Signature[Any]:
        """A signature that is sent through this app: of a task's name, or of its dictionary form.

        Args:
            varies: a task, its name, or a signature as a dictionary.
            args: positional arguments.
            kwargs: keyword arguments.
            options: as ``apply_async`` takes them.
            more: more options; ``immutable=True`` has it take no more arguments.
        """
        made = signature(varies, args, kwargs, options, app=self, **more)
        made.own_app = self
        return made

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """``with app.batch():`` sends what is sent inside without waiting; the end of the block waits for all confirms.

        It holds for this thread; a batch inside a batch waits for its own. Handles can be used after the block.

        Raises:
            BrokerError: at the end, the first error, saying how many were not taken. An exception from the block itself
                goes first; the confirms are waited for all the same.
        """
        with self._gathered("batch") as batch:
            token = _batch.set(batch)
            try:
                yield
            finally:
                _batch.reset(token)

    @contextlib.asynccontextmanager
    async def abatch(self) -> AsyncIterator[None]:
        """``async with app.abatch():`` is ``batch`` for ``adelay`` and ``aapply_async``.

        Raises:
            BrokerError: at the end, the first error, saying how many were not taken.
        """
        async with self._agathered("batch") as batch:
            token = _async_batch.set(batch)
            try:
                yield
            finally:
                _async_batch.reset(token)

    @contextlib.contextmanager
    def _gathered(self, what: str) -> Iterator[Batch]:
        """A batch whose confirms are waited for at the end. ``what`` it is to the caller."""
        batch = Batch(2 * self.settings.publish_window)
        try:
            yield batch
        except BaseException as raised:
            error = batch.wait() if batch.pid == os.getpid() else None
            if error is not None:
                raised.add_note(f"In the same {what}: {error}")
            raise
        error = batch.wait() if batch.pid == os.getpid() else None
        if error is not None:
            raise error

    @contextlib.asynccontextmanager
    async def _agathered(self, what: str) -> AsyncIterator[AsyncBatch]:
        """``_gathered`` for coroutines."""
        from amqtask.loop_client import AsyncBatch  # aio-pika is loaded with the first use

        batch = AsyncBatch(self.settings.publish_window)
        try:
            yield batch
        except BaseException as raised:
            error = await batch.wait()
            if error is not None:
                raised.add_note(f"In the same {what}: {error}")
            raise
        error = await batch.wait()
        if error is not None:
            raise error

    def send(self, call: Call) -> handle.AsyncResult[Any]:
        """Publish a call. Used by tasks; ``send_task`` is for users."""
        batch = _batch.get()
        if batch is not None and batch.pid != os.getpid():
            batch = None  # its confirms come to the process this one was forked from
        client = self._connected()
        deadline = time.monotonic() + self.settings.publish_timeout
        reply_to = self._reply_to(client, call)
        if batch is not None and call.later:
            batch.room(DELAYED_WINDOW)
        sendings, awaited, result = self._prepare(call, reply_to)
        if batch is not None:
            self._submit(batch, client.publisher, sendings, awaited)
            return result
        try:
            client.publisher.publish_many(
                [publication for publication, _ in sendings],
                max(0.001, deadline - time.monotonic()),
                due_in=[due_in for _, due_in in sendings],
            )
        except Unroutable as error:
            raise self._composer.explained(error, *sendings[0]) from None
        return result

    def launch(
        self,
        sig: Sig,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a workflow. Used by signatures; ``sig.apply_async`` is for users.

        Returns:
            The handle of its last task, or of the group that it is or ends in.
        """
        kwargs = kwargs or {}
        options = {name: value for name, value in (options or {}).items() if value is not None}
        if alone(sig, options):
            return self.send(self._call_of(sig, args, kwargs, options))
        client = self._connected()
        reply_to = client.reply_queue(self.settings.publish_timeout)
        launching = self._launching(sig, args, kwargs, options, reply_to)
        batch = _batch.get()
        if batch is not None and batch.pid == os.getpid():
            launching.send(client.publisher, batch, self._composer.explained)
        else:
            with self._gathered("workflow") as batch:
                launching.send(client.publisher, batch, self._composer.explained)
        return launching.result()

    async def alaunch(
        self,
        sig: Sig,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """``launch`` for coroutines."""
        kwargs = kwargs or {}
        options = {name: value for name, value in (options or {}).items() if value is not None}
        if alone(sig, options):
            return await self.asend(self._call_of(sig, args, kwargs, options))
        client = self._of_loop() or await self._loop_connected()
        reply_to = client.replies or await client.reply_queue(self.settings.publish_timeout)
        launching = self._launching(sig, args, kwargs, options, reply_to)
        batch = _async_batch.get()
        if batch is not None:
            await launching.asend(client.publisher, batch, self._composer.explained)
        else:
            async with self._agathered("workflow") as batch:
                await launching.asend(client.publisher, batch, self._composer.explained)
        return launching.result()

    def _launching(
        self,
        sig: Sig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        reply_to: str,
    ) -> Launching:
        parent = current.get()
        return Launching(
            self, sig, args, kwargs, options, parent=parent, reply_to=reply_to, limits=self._limits
        )

    def _call_of(
        self,
        sig: Sig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Call:
        """The call of a signature that has no place in a workflow."""
        own: Any = sig
        if own.get("immutable"):
            args, kwargs = own.get("args") or (), own.get("kwargs") or {}
        else:
            args = (*args, *(own.get("args") or ()))
            kwargs = {**(own.get("kwargs") or {}), **kwargs}
        options = {**(own.get("options") or {}), **options}
        name = own["task"]
        call = make_call(name, args, kwargs, self.call_defaults(name), options)
        self.check(call)
        return call

    def check(self, call: Call) -> None:
        """Do nothing when a call fits the function, or its task is not known here or does not want to be checked.

        Raises:
            TypeError: as calling the function would.
        """
        task = self._tasks.get(call.task)
        if task is not None:
            task.check(call.args, call.kwargs)

    def call_defaults(self, name: str) -> Mapping[str, Any]:
        """The options of a task by its name: its own where it is registered here."""
        task = self._tasks.get(name)
        if task is not None:
            return task.call_defaults
        return {"ignore_result": True} if self.settings.task_ignore_result else {}

    def compose(self, call: Call) -> tuple[Sending, ...]:
        """The publications of a call whose results go where it says, each with the queue it is due in if it is for later.

        Raises:
            AmqtaskError: as ``send``, but for what the broker says.
        """
        return self._composer.compose(call, None)

    def rebuilt(self, wire: object, traceback: object = None) -> Exception:
        """An exception of its wire form, of its own class where this app's packages have it. Never raises.

        Args:
            wire: as results carry it.
            traceback: the text of the remote traceback, if there is one.
        """
        error = exception_from_wire(wire, import_from=self._modules)
        return attach_remote_traceback(error, traceback if isinstance(traceback, str) else None)

    def awaited(self, task_id: str) -> Awaited:
        """Where the result of a task is expected that is about to be sent, or to follow something. Used by launching."""
        return self._pending.sending(task_id)

    def handle_of(
        self, task_id: str, name: str | None, ignored: bool, parent: ResultBase | None
    ) -> handle.AsyncResult[Any]:
        """The handle of a task of a workflow. Used by launching."""
        entry = None if ignored else self._pending.expect(task_id)
        return handle.AsyncResult(entry, task_id, name, self.control, parent)

    def send_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """Publish calls together. Used by ``Task.delay_many``."""
        results = []
        client = self._connected()
        with self._gathered("call") as batch:
            for call in calls:
                sendings, awaited, result = self._prepare(call, self._reply_to(client, call))
                self._submit(batch, client.publisher, sendings, awaited)
                results.append(result)
        return results

    async def asend(self, call: Call) -> handle.AsyncResult[Any]:
        """``send`` for coroutines."""
        timeout = self.settings.publish_timeout
        deadline = time.monotonic() + timeout
        client = self._of_loop() or await self._loop_connected()
        reply_to = None
        if self._wants_reply(call):
            reply_to = client.replies or await client.reply_queue(timeout)
        batch = _async_batch.get()
        if batch is not None:
            if call.later:
                await batch.room(DELAYED_WINDOW)
            sendings, awaited, result = self._prepare(call, reply_to)
            await self._asubmit(batch, client.publisher, sendings, awaited)
            return result
        sendings, _, result = self._prepare(call, reply_to)
        left = max(0.001, deadline - time.monotonic())
        try:
            if len(sendings) == 1:
                publication, due_in = sendings[0]
                await client.publisher.publish(publication, left, due_in=due_in)
            else:
                await client.publisher.publish_many(
                    [publication for publication, _ in sendings],
                    left,
                    due_in=[due_in for _, due_in in sendings],
                )
        except Unroutable as error:
            raise self._composer.explained(error, *sendings[0]) from None
        return result

    async def asend_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """``send_many`` for coroutines."""
        timeout = self.settings.publish_timeout
        client = await self._loop_connected()
        results = []
        async with self._agathered("call") as batch:
            for call in calls:
                reply_to = None
                if self._wants_reply(call):
                    reply_to = client.replies or await client.reply_queue(timeout)
                sendings, awaited, result = self._prepare(call, reply_to)
                await self._asubmit(batch, client.publisher, sendings, awaited)
                results.append(result)
        return results

    # ------------------------------------------------------------ telling the workers

    @property
    def origin(self) -> str:
        """What this process is called in what it sends."""
        return self._origin

    def tell(self, publications: Sequence[Publication]) -> None:
        """Publish records for all workers. Used by ``control``."""
        publisher, timeout = self._connected().publisher, self.settings.publish_timeout
        try:
            publisher.publish_many(publications, timeout)
        except Unroutable:
            self._declare_stream()
            publisher.publish_many(publications, timeout)

    async def atell(self, publications: Sequence[Publication]) -> None:
        """``tell`` for coroutines."""
        publisher, timeout = (await self._loop_connected()).publisher, self.settings.publish_timeout
        try:
            await publisher.publish_many(publications, timeout)
        except Unroutable:
            import asyncio

            await asyncio.to_thread(self._declare_stream)
            await publisher.publish_many(publications, timeout)

    def _declare_stream(self) -> None:
        """Declare the stream of verdicts: no worker of this virtual host has been there before."""
        from amqtask.amqp.session import Session
        from amqtask.amqp.stream import verdict_stream

        with Session(
            self.addresses,
            name=f"{self.name} {self._origin}",
            timeout=self.settings.publish_timeout,
            patience=self.settings.publish_timeout,
        ) as session:
            session.declare(verdict_stream(self.settings))

    def _named_call(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: SendOptions,
        function: str,
    ) -> Call:
        _check_name(name)
        return make_call(name, args, kwargs, self.call_defaults(name), cast(Any, options), function)

    def _wants_reply(self, call: Call) -> bool:
        return not call.ignore_result and call.reply_to is None

    def _reply_to(self, client: Client, call: Call) -> str | None:
        if not self._wants_reply(call):
            return None
        return client.reply_queue(self.settings.publish_timeout)

    def _prepare(
        self, call: Call, reply_to: str | None
    ) -> tuple[tuple[Sending, ...], Awaited | None, handle.AsyncResult[Any]]:
        """What to publish for a call, and the handle of its result; more than one only through the delay ladder."""
        publication = self._composer.stencilled(call, reply_to)
        if publication is not None:
            sendings: tuple[Sending, ...] = ((publication, None),)
        else:
            sendings = self._composer.compose(call, reply_to)
            if call.trail and (parent := current.get()) is not None:
                parent.asked.sent(((call.id, None), None))
        awaited = None
        if not call.ignore_result:
            awaited = self._pending.sending(call.id)
            if reply_to is None:
                awaited.fail(result_elsewhere(call.task, call.id, call.reply_to))
        return sendings, awaited, handle.AsyncResult(awaited, call.id, call.task, self.control)

    def _submit(
        self,
        batch: Batch,
        publisher: Publisher,
        sendings: tuple[Sending, ...],
        awaited: Awaits | None,
    ) -> None:
        timeout, explain = self.settings.publish_timeout, self._composer.explained
        for publication, due_in in sendings:
            batch.submit(publisher, publication, timeout, awaited, explain, due_in)

    async def _asubmit(
        self,
        batch: AsyncBatch,
        publisher: AioPublisher,
        sendings: tuple[Sending, ...],
        awaited: Awaits | None,
    ) -> None:
        timeout, explain = self.settings.publish_timeout, self._composer.explained
        for publication, due_in in sendings:
            await batch.submit(publisher, publication, timeout, awaited, explain, due_in)

    def _read_reply(self, envelope: Envelope) -> Known:
        return read_reply(
            envelope, accept=self._accept, limits=self._limits, import_from=self._modules
        )

    # ------------------------------------------------------------ the connections

    def _connected(self) -> Client:
        client = self._client
        if client is None:
            from amqtask.client import Client  # pika is loaded with the first use, not with amqtask

            addresses = self.addresses  # reads the topology, which takes the lock itself
            with self._lock:
                client = self._client
                if client is None:
                    client = self._client = Client(
                        addresses,
                        self.settings,
                        self._pending,
                        name=f"{self.name} {self._origin}",
                        reply_name=f"amqtask.reply.{self._id}",
                        ladder=self.ladder,
                    )
        return client

    def _of_loop(self) -> LoopClient | None:
        loop = running_loop()
        assert loop is not None  # the caller is a coroutine
        return self._loop_clients.get(loop)

    async def _loop_connected(self) -> LoopClient:
        client = self._of_loop()
        if client is None:
            from amqtask.loop_client import LoopClient  # aio-pika is loaded with the first use

            client = LoopClient(
                self.addresses,
                self.settings,
                self._pending,
                name=f"{self.name} {self._origin}",
                reply_name=f"amqtask.reply.{self._id}.{uuid.uuid4().hex[:8]}",
                ladder=self.ladder,
            )
            with self._lock:
                for ended in [each for each in self._loop_clients if each.is_closed()]:
                    del self._loop_clients[ended]  # with it went its connections
                self._loop_clients[client.loop] = client
            await client.start()
        return client

    def adopt(self, io: IoThread, publisher: Publisher) -> None:
        """Publish through the I/O thread and publisher of a worker's child instead of opening others.

        They stay the worker's to close. Call it before anything is sent in this process.
        """
        from amqtask.client import Client

        addresses = self.addresses  # reads the topology, which takes the lock itself
        with self._lock:
            self._client = Client(
                addresses,
                self.settings,
                self._pending,
                name=f"{self.name} {self._origin}",
                reply_name=f"amqtask.reply.{self._id}",
                ladder=self.ladder,
                io=io,
                publisher=publisher,
            )

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Wait for what is being sent, delete the reply queue, close the connections. Idempotent.

        Handles without a result raise from then on. The app can be used again: it then connects anew. Inside a running
        event loop use ``aclose``, which closes that loop's connections too.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        with self._lock:
            client, self._client = self._client, None
            pending, self._pending = self._pending, Pending(self._read_reply)
            self._id = uuid.uuid4().hex
            loop_clients = list(self._loop_clients.values())
            self._loop_clients.clear()
        for each in loop_clients:
            each.close_from_outside(timeout)
        if client is not None:
            client.close(timeout)
        pending.close(ConnectionLost(f"App {self.name!r} was closed before the result came."))

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> None:  # noqa: ASYNC109  # passed on
        """``close`` for coroutines: also closes the connections of this event loop, and waits for that.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        import asyncio

        await self.leave_loop(timeout)
        await asyncio.to_thread(self.close, timeout)

    async def leave_loop(self, timeout: float = CLOSE_TIMEOUT) -> None:  # noqa: ASYNC109  # passed on
        """Close the connections of this event loop and nothing else: for a loop that ends before the app does.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        import asyncio

        with self._lock:
            mine = self._loop_clients.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    def _after_fork(self) -> None:
        """In a forked child: forget the parent's connections, whose sockets the I/O thread's own hook has closed."""
        self._pending.after_fork(
            RuntimeError(
                "The result arrives at the process that sent the task, not at a fork of it."
            )
        )
        self._begin()


_apps: weakref.WeakSet[App] = weakref.WeakSet()


def _close_all() -> None:
    for app in list(_apps):
        app.close()


def _after_fork_in_child() -> None:
    for app in list(_apps):
        app._after_fork()  # noqa: SLF001  # the module's own hook


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)


def _check_formats(settings: Settings) -> None:
    serialization.serializer(settings.task_serializer)
    serialization.serializer(settings.result_serializer)
    if settings.task_compression is not None:
        compression.mime_type(settings.task_compression)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"A task's name is a text that is not empty, not {name!r}.")


def _task_name(app_name: str, function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None) or "__main__"
    name = getattr(function, "__name__", None)
    if name is None:
        raise ConfigurationError(
            f"{function!r} has no name of its own; give the task one with name=…."
        )
    return f"{app_name if module == '__main__' else module}.{name}"


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


def _same_function(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether the second is the first, defined again by a reload or typed again at a prompt."""
    if known is new:
        return True
    if _identity(known) != _identity(new):
        return False
    codes = [getattr(function, "__code__", None) for function in (known, new)]
    if codes[0] is None or codes[1] is None:
        return False
    interactive = str(codes[1].co_filename).startswith("<")
    return interactive or bool(codes[0].co_firstlineno == codes[1].co_firstlineno)


def _identity(function: Callable[..., Any]) -> tuple[object, ...]:
    code = getattr(function, "__code__", None)
    return (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
        getattr(code, "co_filename", None),
    )


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name


def _folder_of_caller() -> Path | None:
    """The folder of the module that creates an app, ``None`` at a prompt."""
    frame = sys._getframe(2)  # noqa: SLF001  # the caller of App(): there is no public way to it
    file = frame.f_globals.get("__file__")
    return Path(file).resolve().parent if isinstance(file, str) else None


def _find_file(path: Path, home: Path | None) -> Path:
    """Where a topology file is.

    Raises:
        ConfigurationError: nowhere; the message says where it was looked for.
    """
    if path.is_absolute() or path.is_file():
        return path  # a missing absolute one is reported by its reader
    folders = [] if home is None else [home, *home.parents]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    places = f"the working directory ({Path.cwd()})"
    if home is not None:
        places += f", {home} and the folders above it"
    raise ConfigurationError(f"There is no topology file {str(path)!r}: looked in {places}.")
