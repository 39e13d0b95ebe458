"""Typed frames between the processes of a node, as MessagePack.

Between supervisor, fork server and children they are length-prefixed on a socket or a pipe; between supervisor and agent each is
one datagram, so that an agent that dies while it writes leaves nothing that the next one could stumble over.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from amqtask.core.verdicts import Record

# ---------------------------------------------------------------- supervisor → fork server


class SpawnChild(msgspec.Struct, frozen=True, tag=True):
    """Fork a child into seat ``index``, or the node's agent for ``fleet.AGENT``."""

    index: int


class ReapChild(msgspec.Struct, frozen=True, tag=True):
    """The supervisor knows that ``pid`` is dead and will not signal it again: its process id may be reused."""

    pid: int


class Retire(msgspec.Struct, frozen=True, tag=True):
    """End: kill what children are left and exit."""


ToServer = SpawnChild | ReapChild | Retire

# ---------------------------------------------------------------- fork server → supervisor


class ServerIsReady(msgspec.Struct, frozen=True, tag=True):
    """The app is imported and checked. ``sources`` are the folders of the user's code, for ``--reload``."""

    info: dict[str, object]
    sources: list[str]


class ServerCannot(msgspec.Struct, frozen=True, tag=True):
    """The app cannot be prepared: one sentence, the exit code it asks for, and a traceback where there is one."""

    reason: str
    code: int
    traceback: str | None = None


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """A child sits in seat ``index``."""

    index: int
    pid: int


class NotSpawned(msgspec.Struct, frozen=True, tag=True):
    """The fork failed."""

    index: int
    reason: str


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A child is dead, and so is its process group. ``signal`` 0: it exited with ``code``."""

    index: int
    pid: int
    code: int
    signal: int


FromServer = ServerIsReady | ServerCannot | Spawned | NotSpawned | Exited

# ---------------------------------------------------------------- child → supervisor


class ChildReady(msgspec.Struct, frozen=True, tag=True):
    """The child in seat ``index`` consumes."""

    index: int
    pid: int
    generation: int


class ChildRetiring(msgspec.Struct, frozen=True, tag=True):
    """The child in seat ``index`` asks for its replacement."""

    index: int
    pid: int
    generation: int


FromChild = ChildReady | ChildRetiring

# ---------------------------------------------------------------- agent → supervisor


class AgentListens(msgspec.Struct, frozen=True, tag=True):
    """The agent reads its mailbox: send it what was not confirmed yet."""


class AgentRead(msgspec.Struct, frozen=True, tag=True):
    """Records of the stream, in order; what comes next has ``offset``."""

    offset: int
    records: list[Record]


class AgentReplayed(msgspec.Struct, frozen=True, tag=True):
    """Everything that was in the stream when the agent began has been sent."""


class AgentConfirmed(msgspec.Struct, frozen=True, tag=True):
    """The record of ``event`` is safe in the stream."""

    event: str


class AgentCannot(msgspec.Struct, frozen=True, tag=True):
    """The stream cannot be used, for a reason that will not go away by itself: one sentence."""

    reason: str


class AgentMeasured(msgspec.Struct, frozen=True, tag=True):
    """So many messages wait in the node's queues; None: the broker cannot be asked now."""

    waiting: int | None


FromAgent = AgentListens | AgentRead | AgentReplayed | AgentConfirmed | AgentCannot | AgentMeasured

# ---------------------------------------------------------------- supervisor → agent


class PublishRecord(msgspec.Struct, frozen=True, tag=True):
    """Add a record to the stream, and say when it is confirmed."""

    record: Record


ToAgent = PublishRecord

DATAGRAM = 65_536  # bytes of a frame to or from the agent, at most

_LENGTH = struct.Struct("!I")
_encoder = msgspec.msgpack.Encoder()

F = TypeVar("F")


def encode(frame: ToServer | FromServer | FromChild) -> bytes:
    """Return a frame as it travels: four bytes of length, then MessagePack."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class Reader(Generic[F]):
    """Turns the bytes of one stream back into frames of one union of types, given as the value of its type ``F``."""

    def __init__(self, frames: Any) -> None:
        self._decode: Callable[[bytes], F] = msgspec.msgpack.Decoder(frames).decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[F]:
        """Take bytes, return the frames they complete.

        Raises:
            msgspec.MsgspecError: the bytes are no frame of this union: the two sides are not the same program.
        """
        buffer = self._buffer
        buffer += data
        frames: list[F] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            frames.append(self._decode(bytes(buffer[at + _LENGTH.size : end])))
            at = end
        del buffer[:at]
        return frames


class Link(Generic[F]):
    """One end of the socket pair between supervisor and fork server. One thread.

    Args:
        sock: the end; the link owns it from now on.
        frames: the union of frame types that arrive here.
    """

    def __init__(self, sock: socket.socket, frames: Any) -> None:
        self._socket = sock
        self._reader: Reader[F] = Reader(frames)
        self.closed = False  # the other end is gone, and all it sent has been returned

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading."""
        return self._socket.fileno()

    def send(self, frame: ToServer | FromServer) -> bool:
        """Send a frame; False when the other end is gone. Waits for room, which a live other end makes at once."""
        try:
            self._socket.sendall(encode(frame))
        except OSError:
            return False
        return True

    def receive(self) -> list[F]:
        """Return the frames that have arrived, without waiting; ``closed`` tells the end of the stream."""
        frames: list[F] = []
        while not self.closed:
            try:
                data = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if data:
                frames += self._reader.feed(data)
            else:
                self.closed = True
        return frames

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class Mailbox(Generic[F]):
    """One end of the pair of datagram sockets between supervisor and agent. One thread reads, one thread writes.

    Args:
        sock: the end; the mailbox owns it from now on.
        frames: the type or union of frame types that arrive here.
    """

    def __init__(self, sock: socket.socket, frames: Any) -> None:
        self._socket = sock
        self._decode: Callable[[bytes], F] = msgspec.msgpack.Decoder(frames).decode

    @staticmethod
    def pair() -> tuple[Mailbox[FromAgent], Mailbox[ToAgent]]:
        """Return the supervisor's end and the agent's. Every process forked from now on inherits both."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DATAGRAM)
        return Mailbox[FromAgent](ours, FromAgent), Mailbox[ToAgent](theirs, ToAgent)

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading."""
        return self._socket.fileno()

    def send(self, frame: FromAgent | ToAgent) -> None:
        """Send a frame; waits for room."""
        self._socket.send(_encoder.encode(frame))

    def offer(self, frame: FromAgent | ToAgent) -> bool:
        """Send a frame if there is room for it now; whether it was sent."""
        try:
            self._socket.send(_encoder.encode(frame), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def receive(self, most: int = 64) -> list[F]:
        """Return frames that have arrived, without waiting, at most ``most`` of them."""
        frames: list[F] = []
        while len(frames) < most:
            try:
                data = self._socket.recv(8 * DATAGRAM, socket.MSG_DONTWAIT)
            except OSError:
                break
            frames.append(self._decode(data))
        return frames

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
