"""``app.control``: what is said about tasks that were sent already. Durable: a call returns when the broker has confirmed it.

What is said goes into the stream of verdicts, which every node follows live and reads again when it starts.
"""

from __future__ import annotations

import signal as signals
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from amqtask.core.message import Publication
from amqtask.core.verdicts import Kind, Record, new_event, publication
from amqtask.results.base import Headers

IDS_MAX = 1000  # ids of one record: more are told in several

Ids = str | Iterable[str]
Signal = str | int | signals.Signals


class Courier(Protocol):
    """What brings records into the stream, which it declares when it is not there. Any thread, any event loop."""

    @property
    def origin(self) -> str:
        """What this process is called in records."""
        ...

    def tell(self, publications: Sequence[Publication]) -> None:
        """Return when the broker has confirmed all of them."""
        ...

    async def atell(self, publications: Sequence[Publication]) -> None:
        """``tell`` for coroutines."""
        ...


class Control:
    """Revokes and aborts tasks, wherever they are. Any thread; the ``a`` twins in any event loop.

    Every method returns when the broker has confirmed what was said, and raises when it has not.

    Raises:
        TypeError: an id that is no text, or headers that cannot be compared.
        ValueError: no id, no header, or no signal of that name.
        BrokerError: as ``Task.delay``; whether the nodes will hear of it is then unknown.
    """

    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    # ------------------------------------------------------------ revoke

    def revoke(self, task_id: Ids, *, terminate: bool = False, signal: Signal = "SIGTERM") -> None:
        """Have tasks not run (again).

        A task that is queued, delayed or waits for its retry ends as ``REVOKED`` when its turn comes; ``get`` then raises
        ``TaskRevokedError``. One that runs goes on, and ends as it ends, unless ``terminate`` is given.

        Args:
            task_id: an id, or several.
            terminate: end the tasks that run, too.
            signal: with ``terminate``: ``"SIGUSR1"`` raises ``SoftTimeLimitExceeded`` in the task, so that it can
                clean up; with any other the process settles the task and ends, and is killed when it has not done so within
                a second, with ``"SIGKILL"`` within a quarter of one.
        """
        self._courier.tell(self._revoke(task_id, terminate, signal))

    async def arevoke(
        self, task_id: Ids, *, terminate: bool = False, signal: Signal = "SIGTERM"
    ) -> None:
        """``revoke`` for coroutines."""
        await self._courier.atell(self._revoke(task_id, terminate, signal))

    def terminate(self, task_id: Ids, *, signal: Signal = "SIGTERM") -> None:
        """``revoke`` with ``terminate=True``."""
        self.revoke(task_id, terminate=True, signal=signal)

    async def aterminate(self, task_id: Ids, *, signal: Signal = "SIGTERM") -> None:
        """``terminate`` for coroutines."""
        await self.arevoke(task_id, terminate=True, signal=signal)

    def revoke_by_headers(
        self, headers: Headers, *, terminate: bool = False, signal: Signal = "SIGTERM"
    ) -> None:
        """``revoke`` for all tasks that carry one of these headers, those sent later too.

        Args:
            headers: a value, or several, by the name of a header that was given when sending:
                ``{"customer": ["42", "43"]}``. One match is enough. Values are compared as text.
            terminate: as in ``revoke``.
            signal: as in ``revoke``, but ``"SIGKILL"`` is as any other.
        """
        self._courier.tell(self._by_headers(headers, terminate, signal))

    async def arevoke_by_headers(
        self, headers: Headers, *, terminate: bool = False, signal: Signal = "SIGTERM"
    ) -> None:
        """``revoke_by_headers`` for coroutines."""
        await self._courier.atell(self._by_headers(headers, terminate, signal))

    # Celery's names for them: its stamps are headers.
    revoke_by_stamped_headers = revoke_by_headers
    arevoke_by_stamped_headers = arevoke_by_headers

    # ------------------------------------------------------------ abort

    def abort(self, task_id: Ids) -> None:
        """Ask tasks to stop by themselves: ``is_aborted()`` is true in them from now on, when they start later too.

        Args:
            task_id: an id, or several.
        """
        self._courier.tell(self._abort(task_id))

    async def aabort(self, task_id: Ids) -> None:
        """``abort`` for coroutines."""
        await self._courier.atell(self._abort(task_id))

    # ------------------------------------------------------------ inside

    def _revoke(self, task_id: Ids, terminate: bool, signal: Signal) -> list[Publication]:
        name = signal_name(signal)
        return [
            self._record(Kind.REVOKED, ids=ids, terminate=terminate, signal=name)
            for ids in _ids(task_id)
        ]

    def _by_headers(self, headers: Headers, terminate: bool, signal: Signal) -> list[Publication]:
        values = header_values(headers)
        return [
            self._record(
                Kind.REVOKED, headers=values, terminate=terminate, signal=signal_name(signal)
            )
        ]

    def _abort(self, task_id: Ids) -> list[Publication]:
        return [self._record(Kind.ABORTED, ids=ids) for ids in _ids(task_id)]

    def _record(
        self,
        kind: Kind,
        *,
        ids: tuple[str, ...] = (),
        headers: dict[str, list[str]] | None = None,
        terminate: bool = False,
        signal: str = "TERM",
    ) -> Publication:
        return publication(
            Record(
                kind=kind,
                event=new_event(),
                origin=self._courier.origin,
                time=time.time(),
                ids=ids,
                headers=headers or {},
                terminate=terminate,
                signal=signal,
            )
        )


def signal_name(signal: Signal) -> str:
    """A signal as records name it: ``"TERM"`` for ``"SIGTERM"``, ``"term"``, ``15`` or ``signal.SIGTERM``.

    Raises:
        TypeError: neither a name nor a number.
        ValueError: there is no such signal.
    """
    if isinstance(signal, bool) or not isinstance(signal, str | int):
        raise TypeError(f"A signal is a name like 'SIGTERM' or a number, not {signal!r}.")
    if isinstance(signal, int):
        try:
            return signals.Signals(signal).name.removeprefix("SIG")
        except ValueError:
            raise ValueError(
                f"There is no signal {signal}; write one like 'SIGTERM' or 'SIGKILL'."
            ) from None
    name = signal.upper().removeprefix("SIG")
    if f"SIG{name}" not in signals.Signals.__members__:
        raise ValueError(f"There is no signal {signal!r}; write one like 'SIGTERM' or 'SIGKILL'.")
    return name


def header_values(headers: Headers) -> dict[str, list[str]]:
    """Headers to look for, each with its values as text.

    Raises:
        TypeError: a name or value of another type.
        ValueError: nothing to look for.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(
            f"revoke_by_headers() takes a mapping like {{'customer': '42'}}, not {headers!r}."
        )
    found: dict[str, list[str]] = {}
    for name, given in dict[Any, Any](headers).items():
        values = [given] if isinstance(given, str | int | float) else given
        if (
            not isinstance(name, str)
            or not isinstance(values, list | tuple | set | frozenset)
            or not all(isinstance(value, str | int | float) for value in values)
        ):
            raise TypeError(
                f"revoke_by_headers() compares headers with texts and numbers, not {name!r} with {given!r}."
            )
        found[name] = [str(value) for value in values]
    if not any(found.values()):
        raise ValueError("revoke_by_headers() needs a header with a value: nothing was revoked.")
    return found


def _ids(task_id: Ids) -> list[tuple[str, ...]]:
    """Ids in pieces, each of which fits one record."""
    ids = [task_id] if isinstance(task_id, str) else list(_each(task_id))
    for each in ids:
        if not isinstance(each, str):
            raise TypeError(f"A task's id is a text, not {each!r}; write result.id for a handle's.")
    if not all(ids) or not ids:
        raise ValueError("An id is missing: nothing was told to the workers.")
    return [tuple(ids[start : start + IDS_MAX]) for start in range(0, len(ids), IDS_MAX)]


def _each(ids: Iterable[str]) -> Iterable[str]:
    if not isinstance(ids, Iterable):
        raise TypeError(f"A task's id is a text, not {ids!r}; write result.id for a handle's.")
    return ids
