"""Typed frames between supervisor, fork server and children: length-prefixed MessagePack on a socket or a pipe."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

# ---------------------------------------------------------------- supervisor → fork server


class SpawnChild(msgspec.Struct, frozen=True, tag=True):
    """Fork a child into seat ``index``."""

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
