"""A TCP proxy on loopback that cuts, freezes and slows connections when a test says so.

::

    with Proxy.before(broker_url) as proxy:
        app = App("shop", broker_url=proxy.url)
        ...
        proxy.freeze()     # the network is gone: nothing arrives, nothing is refused
        proxy.thaw()       # what was under way arrives after all
        proxy.cut()        # every connection ends with a reset

One thread of its own carries all connections. A call that changes something returns when it is in effect, so a test needs no
pause after it.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

from amqtask.amqp.address import Address
from amqtask.errors import ConfigurationError, ConnectFailed

CHUNK = 65536  # bytes read at once
HELD = 262_144  # bytes kept for a slow reader before the writer is left waiting, per direction
TICK = 0.02  # seconds between two portions of a connection with a limited rate
NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends a reset and forgets what was not sent


@dataclass(frozen=True, slots=True)
class Link:
    """One connection through the proxy, at one moment.

    Attributes:
        number: counts the proxy's connections from 1.
        client: the client's port on its side.
        to_server: bytes that have passed towards the server.
        to_client: bytes that have passed towards the client.
        frozen: nothing passes at present.
    """

    number: int
    client: int
    to_server: int
    to_client: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a connection is.

    Attributes:
        rate: bytes a second in each direction; ``None`` for no limit.
        latency: seconds that each byte is late, in each direction.
    """

    rate: float | None = None
    latency: float = 0.0


class Proxy:
    """Carries TCP connections from a port of its own on 127.0.0.1 to a server.

    Start it with ``with``, or with ``start`` and ``close``. Every method may be called from any thread; those that change
    something return when it is in effect.

    Args:
        host: the server's name or address.
        port: the server's port.
        listen: the port to listen on; 0 lets the system choose one.

    Raises:
        ConfigurationError: the host has no address.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigurationError(f"The host {host!r} has no address: {error}.") from error
        # a name with several addresses: the IPv4 one, which is where brokers on loopback listen
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        self._family, self._server = found[0][0], found[0][4]
        self._listen = listen
        self._address: Address | None = None
        self._port = 0
        # Below: owned by the proxy's thread while that runs, but for the queue, which wakes it.
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._pipes: dict[int, _Pipe] = {}
        self._speed = Speed()
        self._cuts: deque[tuple[int | None, int | None]] = deque()  # for the next connections
        self._freezes_new = False
        self._listener: socket.socket | None = None

    @classmethod
    def before(cls, url: str) -> Proxy:
        """A proxy before the broker of an AMQP URL; ``url`` is then where clients connect.

        With ``amqps`` the client checks the certificate against 127.0.0.1, unless the URL names a ``server_name``.

        Raises:
            ConfigurationError: the URL has a mistake, or the host has no address.
        """
        address = Address.parse(url)
        proxy = cls(address.host, address.port)
        proxy._address = address
        return proxy

    # ------------------------------------------------------------ what it is

    @property
    def port(self) -> int:
        """The port to connect to; the same for the whole life of the proxy."""
        return self._port

    @property
    def url(self) -> str:
        """The AMQP URL that leads through the proxy: user, password and virtual host are those of ``before``.

        Raises:
            ConfigurationError: the proxy was not made with ``before``.
        """
        address = self._address
        if address is None:
            raise ConfigurationError("Only a proxy made with Proxy.before(url) has a URL.")
        scheme = "amqps" if address.tls else "amqp"
        login = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}"
        return f"{scheme}://{login}@127.0.0.1:{self._port}/{quote(address.vhost, safe='')}"

    @property
    def links(self) -> tuple[Link, ...]:
        """The connections that are open now, oldest first."""
        found: list[Link] = []
        self._order(lambda: found.extend(pipe.link for pipe in self._pipes.values()))
        return tuple(found)

    # ------------------------------------------------------------ what can be done

    def start(self) -> Self:
        """Listen, and carry connections from now on.

        Raises:
            ConnectFailed: the port to listen on is taken.
        """
        self._listener = self._bind(self._listen)
        self._port = self._listener.getsockname()[1]
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="amqtask proxy", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """End every connection and the thread. Safe to call twice."""
        thread = self._thread
        if thread is None:
            return
        self._order(None)
        thread.join()
        self._thread = None
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def cut(self, *numbers: int) -> int:
        """End connections with a reset towards both sides; what was under way is gone. Returns how many there were.

        Args:
            numbers: which, as in ``links``; all when left out.
        """
        return self._each(numbers, lambda pipe: pipe.end(reset=True))

    def cut_after(self, *, to_server: int | None = None, to_client: int | None = None) -> None:
        """Cut the next connection with a reset when it has carried so much: to be done at each byte of a conversation.

        Args:
            to_server: bytes from the client that arrive.
            to_client: bytes from the server that arrive. The first of the two that is reached counts.
        """
        self._order(lambda: self._cuts.append((to_server, to_client)))

    def hang_up(self, *numbers: int) -> int:
        """Close connections in good order towards both sides, as a broker does that stops. Returns how many there were."""
        return self._each(numbers, lambda pipe: pipe.end(reset=False))

    def freeze(self, *numbers: int) -> int:
        """Let nothing pass any more, without a word to either side: a half-open connection. Returns how many there were.

        Args:
            numbers: which, as in ``links``; when left out all, and those that come later too, which are neither
                refused nor answered.
        """
        if numbers:
            return self._each(numbers, lambda pipe: pipe.freeze())

        def all_of_them() -> None:
            self._freezes_new = True
            if self._listener is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._listener)

        self._order(all_of_them)
        return self._each((), lambda pipe: pipe.freeze())

    def thaw(self) -> None:
        """Let everything pass again, from where it stopped."""

        def all_of_them() -> None:
            self._freezes_new = False
            for pipe in list(self._pipes.values()):
                pipe.thaw()
            if self._listener is not None:
                with contextlib.suppress(KeyError):
                    self._selector.register(self._listener, selectors.EVENT_READ)

        self._order(all_of_them)

    def slow(self, rate: float | None = None, latency: float = 0.0) -> None:
        """Limit all connections, those to come too; without arguments the limits are lifted.

        Args:
            rate: bytes a second, for each connection in each direction.
            latency: seconds that each byte is late, in each direction.
        """
        speed = Speed(rate, latency)

        def all_of_them() -> None:
            self._speed = speed
            for pipe in self._pipes.values():
                pipe.set_speed(speed)

        self._order(all_of_them)

    def refuse(self) -> None:
        """Refuse new connections, as a host does on which nothing listens. Open ones go on."""

        def close() -> None:
            if self._listener is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None

        self._order(close)

    def accept(self) -> None:
        """Take new connections again after ``refuse``.

        Raises:
            ConnectFailed: another process has taken the port meanwhile.
        """
        listener = self._bind(self._port)

        def listen() -> None:
            if self._listener is not None:
                listener.close()
                return
            self._listener = listener
            if not self._freezes_new:
                self._selector.register(listener, selectors.EVENT_READ)

        self._order(listen)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ orders to the thread

    def _each(self, numbers: Iterable[int], action: Callable[[_Pipe], None]) -> int:
        wanted = set(numbers)
        count = 0

        def act() -> None:
            nonlocal count
            for number, pipe in list(self._pipes.items()):
                if not wanted or number in wanted:
                    action(pipe)
                    count += 1

        self._order(act)
        return count

    def _order(self, action: Callable[[], object] | None) -> None:
        """Have the thread do something between two turns of its loop, and wait until it has."""
        thread = self._thread
        if thread is None:
            raise ConfigurationError("The proxy is not running: use it in a with block.")
        order = _Order(action)
        self._orders.put(order)
        with contextlib.suppress(BlockingIOError):  # full: it is awake
            self._wake_write.send(b".")
        order.done.wait()

    @staticmethod
    def _bind(port: int) -> socket.socket:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise ConnectFailed(f"The proxy cannot listen on port {port}: {error}.") from error
        return listener

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        going = True
        while going:
            due = min((pipe.due for pipe in self._pipes.values()), default=None)
            wait = None if due is None or due == _NEVER else max(0.0, due - time.monotonic())
            for key, events in self._selector.select(wait):
                if key.fileobj is self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        self._wake_read.recv(CHUNK)
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Half):
                    key.data.ready(events)
            now = time.monotonic()
            for pipe in list(self._pipes.values()):
                if pipe.due <= now:
                    pipe.move(now)
            going = self._obey()
        for pipe in list(self._pipes.values()):
            pipe.end(reset=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _obey(self) -> bool:
        """Carry out the orders that wait; False after the last one."""
        going = True
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return going
            if order.action is None:
                going = False
            else:
                order.action()
            order.done.set()

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            client, _ = listener.accept()
        except OSError:  # it is gone again, or this process has no descriptors left
            return
        server = socket.socket(self._family)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            try:
                server.connect(self._server)
            except BlockingIOError:
                raise
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                client.close()
                server.close()
                return
        number = next(self._numbers)
        self._pipes[number] = _Pipe(
            number,
            client,
            server,
            self._selector,
            self._speed,
            self._cuts.popleft() if self._cuts else (None, None),
            lambda: self._pipes.pop(number, None),
        )


@dataclass(slots=True)
class _Order:
    action: Callable[[], object] | None
    done: threading.Event

    def __init__(self, action: Callable[[], object] | None) -> None:
        self.action = action
        self.done = threading.Event()


_NEVER = float("inf")


class _Half:
    """One direction: reads from ``source``, keeps what is late or too much, writes to ``sink``."""

    def __init__(
        self, pipe: _Pipe, source: socket.socket, sink: socket.socket, left: int | None
    ) -> None:
        self.pipe = pipe
        self.left = left  # bytes until the connection is to be cut
        self.source = source
        self.sink = sink
        self.peer: _Half = self
        self.kept: deque[tuple[float, bytes]] = deque()  # due at, bytes
        self.size = 0
        self.passed = 0
        self.ended = False  # the source has said its last
        self.shut = False  # and the sink knows
        self.stuck = False  # the sink takes no more at present
        self.credit_at = 0.0  # from when on a limited rate may send again
        self.due = _NEVER

    def ready(self, events: int) -> None:
        """The socket this half reads from can be read, or (for the other half) written."""
        if events & selectors.EVENT_READ:
            self.read()
        if events & selectors.EVENT_WRITE and not self.pipe.closed:
            self.peer.stuck = False
            self.peer.write(time.monotonic())

    def read(self) -> None:
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.pipe.end(reset=True)
            return
        now = time.monotonic()
        if data:
            self.kept.append((now + self.pipe.speed.latency, data))
            self.size += len(data)
        else:
            self.ended = True
        self.write(now)

    def write(self, now: float) -> None:
        """Send what is due; say when there will be more."""
        rate = self.pipe.speed.rate
        self.due = _NEVER
        try:
            while self.kept and not self.stuck:
                at, data = self.kept[0]
                if at > now:
                    self.due = at
                    break
                most = len(data)
                if rate is not None:
                    if self.credit_at > now:
                        self.due = self.credit_at
                        break
                    most = max(1, min(most, int(rate * TICK)))
                if self.left is not None:
                    most = min(most, self.left)
                    if not most:
                        self.pipe.end(reset=True)
                        return
                sent = self.sink.send(data[:most])
                self.passed += sent
                self.size -= sent
                if self.left is not None:
                    self.left -= sent
                if rate is not None:
                    self.credit_at = max(self.credit_at, now - TICK) + sent / rate
                if sent == len(data):
                    self.kept.popleft()
                else:
                    self.kept[0] = (at, data[sent:])
                    self.stuck = sent < most
        except BlockingIOError:
            self.stuck = True
        except OSError:
            self.pipe.end(reset=True)
            return
        if self.ended and not self.kept and not self.shut:
            self.shut = True
            try:
                self.sink.shutdown(socket.SHUT_WR)
            except OSError:
                self.pipe.end(reset=True)
                return
            if self.peer.shut:
                self.pipe.end(reset=False)
                return
        self.pipe.watch()


class _Pipe:
    """One connection: two sockets and the two directions between them. Owner: the proxy's thread."""

    def __init__(
        self,
        number: int,
        client: socket.socket,
        server: socket.socket,
        selector: selectors.BaseSelector,
        speed: Speed,
        cut_after: tuple[int | None, int | None],
        gone: Callable[[], object],
    ) -> None:
        self.speed = speed
        self.closed = False
        self._number = number
        self._client = client
        self._server = server
        self._port = client.getpeername()[1] if _connected(client) else 0
        self._selector = selector
        self._gone = gone
        self._frozen = False
        self._watched: dict[socket.socket, int] = {}
        self._up = _Half(self, client, server, cut_after[0])
        self._down = _Half(self, server, client, cut_after[1])
        self._up.peer, self._down.peer = self._down, self._up
        self._up.stuck = True  # until the server's socket can be written, it is not connected
        self.watch()

    @property
    def link(self) -> Link:
        return Link(self._number, self._port, self._up.passed, self._down.passed, self._frozen)

    @property
    def due(self) -> float:
        """When something that was late must be sent."""
        return _NEVER if self._frozen else min(self._up.due, self._down.due)

    def move(self, now: float) -> None:
        """Send what is due."""
        for half in (self._up, self._down):
            if not self.closed and half.due <= now:
                half.write(now)

    def set_speed(self, speed: Speed) -> None:
        self.speed = speed
        now = time.monotonic()
        for half in (self._up, self._down):
            # what is kept is not later than it would be from now on
            half.kept = deque((min(at, now + speed.latency), data) for at, data in half.kept)
            half.credit_at = 0.0
            half.due = now if half.kept else _NEVER

    def freeze(self) -> None:
        self._frozen = True
        self.watch()

    def thaw(self) -> None:
        self._frozen = False
        self.watch()
        self.move(time.monotonic())

    def watch(self) -> None:
        """Have the selector look at what this connection waits for."""
        if self.closed:
            return
        for half in (self._up, self._down):
            events = 0
            if not self._frozen:
                if not half.ended and half.size < HELD:
                    events |= selectors.EVENT_READ
                if half.peer.stuck:
                    events |= selectors.EVENT_WRITE
            sock = half.source
            before = self._watched.get(sock, 0)
            if events == before:
                continue
            if not before:
                self._selector.register(sock, events, half)
            elif not events:
                self._selector.unregister(sock)
            else:
                self._selector.modify(sock, events, half)
            self._watched[sock] = events

    def end(self, *, reset: bool) -> None:
        """Close both sockets and forget the connection."""
        if self.closed:
            return
        self.closed = True
        for sock in (self._client, self._server):
            if self._watched.get(sock):
                self._selector.unregister(sock)
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.close()
        self._gone()


def _connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
