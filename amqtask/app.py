"""The application: its tasks, its settings and topology, and its way to the broker.

An ``App`` is explicit: nothing is global but the list of apps that ``atexit`` and ``fork`` must reach. Creating one costs
nothing: the topology is read, and a connection made, when first needed.

Its parts are values of their own: the tasks are in ``registry``, brokers, topology and routes in ``place``, what a process holds
at the broker in ``connections``, and what is sent goes through ``dispatching``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
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

from amqtask.call import Call, SendOptions, make_call
from amqtask.canvas.signature import Signature, signature
from amqtask.composing import Sending
from amqtask.connections import Connections
from amqtask.control import Control
from amqtask.core import codec, compression, serialization
from amqtask.core.message import Envelope, Publication
from amqtask.core.workflow import Sig
from amqtask.dispatching import Dispatcher
from amqtask.errors import ConfigurationError
from amqtask.options import TaskOptions
from amqtask.place import Place, folder_of_caller
from amqtask.registry import Registry, check_name
from amqtask.results import handle
from amqtask.results.base import ResultBase
from amqtask.results.record import Known, read_reply
from amqtask.settings import Settings
from amqtask.task import BindDecorator, CoroutineTask, Decorator, Task
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology
from amqtask.topology.routes import Router

if TYPE_CHECKING:
    from amqtask.amqp.address import Address
    from amqtask.amqp.ports import Publisher
    from amqtask.amqp.threaded.loop import IoThread

P = ParamSpec("P")
R = TypeVar("R")

CLOSE_TIMEOUT = 10.0  # seconds


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
        ConfigurationError: an unknown setting, or a value of the wrong type, also of the topology.
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
        self._place = Place(name, self.settings, topology, folder_of_caller(), broker_url)
        self._registry = Registry(name, self.settings, self)
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
        self._connections = Connections(self.name, self.settings, self._place, self._read_reply)
        self._dispatcher = Dispatcher(
            self.settings,
            self._place,
            self._registry,
            self._connections,
            self._limits,
            self.control,
        )

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
            return lambda function: self._registry.register(function, options)
        if len(function) > 1 or options:
            raise ConfigurationError(
                "Write @app.task, or @app.task(option=…) with keyword arguments only."
            )
        return self._registry.register(function[0], options)

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The registered tasks by name; a live view."""
        return self._registry.view

    def registered(self, name: str) -> Task[..., Any]:
        """The task of this name, one of ``builtins`` among others.

        Raises:
            NotRegistered: there is none; the message names the nearest.
        """
        return self._registry.find(name)

    @property
    def builtins(self) -> Mapping[str, Task[..., Any]]:
        """The tasks that every app has, by name: see ``amqtask.builtin``."""
        return self._registry.builtins

    def rebuilt(self, wire: object, traceback: object = None) -> Exception:
        """An exception of its wire form, of its own class where this app's packages have it. Never raises.

        Args:
            wire: as results carry it.
            traceback: the text of the remote traceback, if there is one.
        """
        return self._registry.rebuilt(wire, traceback)

    # ------------------------------------------------------------ where they go

    @property
    def broker_url(self) -> str:
        """The broker's URL, password and all: the argument, the environment's, the setting's, or the default."""
        return self._place.broker_url

    @broker_url.setter
    def broker_url(self, url: str) -> None:
        """Put another broker before all of these, as the command line's ``-b`` does; before the first connection."""
        self._place.broker_url = url

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The brokers to try, in order, in the topology's virtual host; shuffled where the settings say so.

        Raises:
            ConfigurationError: the URL has a mistake, or the topology cannot be read.
        """
        return self._place.addresses

    @property
    def topology(self) -> Topology:
        """The app's topology; read from its file on first use.

        Raises:
            ConfigurationError: the file is not there.
            TopologyError: it has mistakes; all are listed.
        """
        return self._place.topology

    @property
    def has_topology_file(self) -> bool:
        """Whether the topology comes from a file, which `amqtask topology apply` takes by its name."""
        return self._place.has_topology_file

    @property
    def router(self) -> Router:
        """Finds the exchange and the routing key of a task.

        Raises:
            ConfigurationError: a route leads nowhere, or the topology cannot be read.
        """
        return self._place.router

    @property
    def ladder(self) -> Ladder:
        """The delay ladder that what is sent for later waits in.

        Raises:
            ConfigurationError, TopologyError: as ``topology``.
        """
        return self._place.ladder

    def freeze(self) -> None:
        """Read what is read lazily and close what is open, so that processes forked from this one share the work.

        Raises:
            ConfigurationError: as ``topology`` and ``router``.
        """
        _ = self.router
        _ = self.topology
        self.close()

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
        return self._dispatcher.send(self._named_call(name, args, kwargs, options, "send_task"))

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> handle.AsyncResult[Any]:
        """``send_task`` for coroutines."""
        return await self._dispatcher.asend(
            self._named_call(name, args, kwargs, options, "asend_task")
        )

    def _named_call(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: SendOptions,
        function: str,
    ) -> Call:
        check_name(name)
        return make_call(
            name, args, kwargs, self._registry.call_defaults(name), cast(Any, options), function
        )

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
        with self._dispatcher.batch():
            yield

    @contextlib.asynccontextmanager
    async def abatch(self) -> AsyncIterator[None]:
        """``async with app.abatch():`` is ``batch`` for ``adelay`` and ``aapply_async``.

        Raises:
            BrokerError: at the end, the first error, saying how many were not taken.
        """
        async with self._dispatcher.abatch():
            yield

    def send(self, call: Call) -> handle.AsyncResult[Any]:
        """Publish a call. Used by tasks; ``send_task`` is for users."""
        return self._dispatcher.send(call)

    async def asend(self, call: Call) -> handle.AsyncResult[Any]:
        """``send`` for coroutines."""
        return await self._dispatcher.asend(call)

    def send_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """Publish calls together. Used by ``Task.delay_many``."""
        return self._dispatcher.send_many(calls)

    async def asend_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """``send_many`` for coroutines."""
        return await self._dispatcher.asend_many(calls)

    def launch(
        self,
        sig: Sig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """Send a workflow. Used by signatures; ``sig.apply_async`` is for users.

        Returns:
            The handle of its last task, or of the group that it is or ends in.
        """
        return self._dispatcher.launch(sig, args, kwargs, options)

    async def alaunch(
        self,
        sig: Sig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """``launch`` for coroutines."""
        return await self._dispatcher.alaunch(sig, args, kwargs, options)

    def compose(self, call: Call) -> tuple[Sending, ...]:
        """The publications of a call whose results go where it says, each with the queue it is due in if it is for later.

        Raises:
            AmqtaskError: as ``send``, but for what the broker says.
        """
        return self._dispatcher.compose(call)

    # ------------------------------------------------------------ results

    def AsyncResult(  # noqa: N802  # Celery's name for it
        self, task_id: str, *, parent: ResultBase | None = None
    ) -> handle.AsyncResult[Any]:
        """A handle for a task that this process sent, by its id. An id it did not send stays PENDING.

        Args:
            task_id: the task's id.
            parent: the handle of what came before it in its chain.

        Raises:
            ValueError: this is no id.
        """
        if not _is_text(task_id) or not task_id:
            raise ValueError(
                f"A task's id is a text that is not empty, not {task_id!r}; write result.id for a handle's."
            )
        entry = self._connections.pending.expect(task_id)
        return handle.AsyncResult.of(entry, task_id, None, self.control, parent)

    def _read_reply(self, envelope: Envelope) -> Known:
        return read_reply(
            envelope, accept=self._accept, limits=self._limits, import_from=self._registry.modules
        )

    # ------------------------------------------------------------ telling the workers

    @property
    def origin(self) -> str:
        """What this process is called in what it sends."""
        return self._connections.origin

    def tell(self, publications: Sequence[Publication]) -> None:
        """Publish records for all workers. Used by ``control``."""
        self._dispatcher.tell(publications)

    async def atell(self, publications: Sequence[Publication]) -> None:
        """``tell`` for coroutines."""
        await self._dispatcher.atell(publications)

    # ------------------------------------------------------------ the connections

    def adopt(self, io: IoThread, publisher: Publisher) -> None:
        """Publish through the I/O thread and publisher of a worker's child instead of opening others.

        They stay the worker's to close. Call it before anything is sent in this process.
        """
        self._connections.adopt(io, publisher)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Wait for what is being sent, delete the reply queue, close the connections. Idempotent.

        Handles without a result raise from then on. The app can be used again: it then connects anew. Inside a running
        event loop use ``aclose``, which closes that loop's connections too.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        self._connections.close(timeout)

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
        await self._connections.leave_loop(timeout)

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
        """In a forked child: connections of its own take the place of the parent's."""
        self._connections.left_behind()
        self._place.after_fork()
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
