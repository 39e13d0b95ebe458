"""Sending from here: single calls, calls together, workflows, and what is said to the workers.

Each way there is twice, for threads and for coroutines.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from amqtask.batch import DELAYED_WINDOW, Awaits, Batch
from amqtask.call import Call, make_call
from amqtask.composing import Composer, Sending
from amqtask.connections import Connections
from amqtask.control import Control
from amqtask.core import codec
from amqtask.core.message import Publication
from amqtask.core.workflow import Sig
from amqtask.errors import Unroutable
from amqtask.launching import Launching, alone, result_elsewhere
from amqtask.place import Place
from amqtask.registry import Registry
from amqtask.request import running
from amqtask.results import handle
from amqtask.results.base import ResultBase
from amqtask.results.pending import Awaited
from amqtask.settings import Settings

if TYPE_CHECKING:
    from amqtask.amqp.aio.publisher import AioPublisher
    from amqtask.amqp.ports import Publisher
    from amqtask.client import Client
    from amqtask.loop_client import AsyncBatch

# The innermost ``with app.batch():`` and ``async with app.abatch():`` of this context.
_batch: ContextVar[Batch | None] = ContextVar("amqtask_batch", default=None)
_async_batch: ContextVar[AsyncBatch | None] = ContextVar("amqtask_abatch", default=None)


class Dispatcher:
    """Sends what an app sends in one process. Any thread; the coroutines in any event loop.

    Args:
        settings: the app's.
        place: where the tasks go.
        registry: the app's tasks.
        connections: of this process.
        limits: of messages.
        control: for the handles of what is sent.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place,
        registry: Registry,
        connections: Connections,
        limits: codec.Limits,
        control: Control,
    ) -> None:
        self.settings = settings
        self._place = place
        self._registry = registry
        self._connections = connections
        self._limits = limits
        self._control = control
        self._composer = Composer(place, settings, limits, connections.origin)

    # ------------------------------------------------------------ together

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Send what is sent inside without waiting, and wait for all confirms at the end: ``App.batch``."""
        with self._gathered("batch") as batch:
            token = _batch.set(batch)
            try:
                yield
            finally:
                _batch.reset(token)

    @contextlib.asynccontextmanager
    async def abatch(self) -> AsyncIterator[None]:
        """``batch`` for coroutines."""
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

    # ------------------------------------------------------------ calls

    def send(self, call: Call) -> handle.AsyncResult[Any]:
        """Publish a call, or put it into the batch of this context.

        Raises:
            AmqtaskError: as ``Task.delay``.
        """
        batch = _batch.get()
        if batch is not None and batch.pid != os.getpid():
            batch = None  # its confirms come to the process this one was forked from
        client = self._connections.client()
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

    async def asend(self, call: Call) -> handle.AsyncResult[Any]:
        """``send`` for coroutines."""
        timeout = self.settings.publish_timeout
        deadline = time.monotonic() + timeout
        client = self._connections.of_loop() or await self._connections.loop_client()
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

    def send_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """Publish calls together.

        Raises:
            AmqtaskError: as ``Task.delay_many``.
        """
        results = []
        client = self._connections.client()
        with self._gathered("call") as batch:
            for call in calls:
                sendings, awaited, result = self._prepare(call, self._reply_to(client, call))
                self._submit(batch, client.publisher, sendings, awaited)
                results.append(result)
        return results

    async def asend_many(self, calls: Iterator[Call]) -> list[handle.AsyncResult[Any]]:
        """``send_many`` for coroutines."""
        timeout = self.settings.publish_timeout
        client = await self._connections.loop_client()
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
            if call.trail and (parent := running()) is not None:
                parent.asked.sent(((call.id, None), None))
        awaited = None
        if not call.ignore_result:
            awaited = self._connections.pending.sending(call.id, reply_to)
            if reply_to is None:
                awaited.fail(result_elsewhere(call.task, call.id, call.reply_to))
        return sendings, awaited, handle.AsyncResult.of(awaited, call.id, call.task, self._control)

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

    # ------------------------------------------------------------ workflows

    def launch(
        self,
        sig: Sig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """Send a workflow: ``App.launch``."""
        options = {name: value for name, value in options.items() if value is not None}
        if alone(sig, options):
            return self.send(self._call_of(sig, args, kwargs, options))
        client = self._connections.client()
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
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """``launch`` for coroutines."""
        options = {name: value for name, value in options.items() if value is not None}
        if alone(sig, options):
            return await self.asend(self._call_of(sig, args, kwargs, options))
        client = self._connections.of_loop() or await self._connections.loop_client()
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
        parent = running()
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
        call = make_call(name, args, kwargs, self._registry.call_defaults(name), options)
        self.check(call)
        return call

    def check(self, call: Call) -> None:
        """Do nothing when a call fits the function, or its task is not known here or does not want to be checked.

        Raises:
            TypeError: as calling the function would.
        """
        task = self._registry.by_name.get(call.task)
        if task is not None:
            task.check(call.args, call.kwargs)

    def call_defaults(self, name: str) -> Mapping[str, Any]:
        """The options of a task by its name: its own where it is registered here."""
        return self._registry.call_defaults(name)

    def compose(self, call: Call) -> tuple[Sending, ...]:
        """The publications of a call whose results go where it says, each with the queue it is due in if it is for later.

        Raises:
            AmqtaskError: as ``send``, but for what the broker says.
        """
        return self._composer.compose(call, None)

    def awaited(self, task_id: str, reply_to: str | None) -> Awaited:
        """Where the result of a task is expected that is about to be sent, or to follow something."""
        return self._connections.pending.sending(task_id, reply_to)

    def handle_of(
        self, task_id: str, name: str | None, ignored: bool, parent: ResultBase | None
    ) -> handle.AsyncResult[Any]:
        """The handle of a task of a workflow."""
        entry = None if ignored else self._connections.pending.expect(task_id)
        return handle.AsyncResult.of(entry, task_id, name, self._control, parent)

    # ------------------------------------------------------------ telling the workers

    def tell(self, publications: Sequence[Publication]) -> None:
        """Publish records for all workers, in a stream that is declared when it is not there."""
        publisher, timeout = self._connections.client().publisher, self.settings.publish_timeout
        try:
            publisher.publish_many(publications, timeout)
        except Unroutable:
            self._declare_stream()
            publisher.publish_many(publications, timeout)

    async def atell(self, publications: Sequence[Publication]) -> None:
        """``tell`` for coroutines."""
        publisher = (await self._connections.loop_client()).publisher
        timeout = self.settings.publish_timeout
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
            self._place.addresses,
            name=self._connections.label,
            timeout=self.settings.publish_timeout,
            patience=self.settings.publish_timeout,
        ) as session:
            session.declare(verdict_stream(self.settings))
