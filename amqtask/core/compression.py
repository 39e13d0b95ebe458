"""Body compression under the names and mime types Celery uses, with a bound on what a received body may grow to.

``application/x-gzip`` carries a raw zlib stream, because that is what kombu writes under this name; a real gzip file is read
too. A body is one stream: data after its end is damage. Every function is pure and may be called from any thread.

Most processes never compress, so what does it is imported with the first such body, but zlib, which Python has loaded anyway.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from amqtask.errors import ConfigurationError, ContentRefused, DecodeError
from amqtask.names import suggestion

GZIP = "application/x-gzip"
BZIP2 = "application/x-bz2"
LZMA = "application/x-lzma"
ZSTD = "application/zstd"

_ALIASES = {
    "gzip": GZIP,
    "zlib": GZIP,
    "bzip2": BZIP2,
    "bzip": BZIP2,
    "lzma": LZMA,
    "xz": LZMA,
    "zstd": ZSTD,
    "zstandard": ZSTD,
    GZIP: GZIP,
    BZIP2: BZIP2,
    LZMA: LZMA,
    ZSTD: ZSTD,
}
NAMES = tuple(name for name in _ALIASES if "/" not in name)

_CHUNK = 256 * 1024
_SLICE = 64 * 1024
_TRUNCATED = "it ends too early"
_TRAILING = "more bytes follow its end"
_ZSTD_BLOCK = 128 * 1024  # the most that one block, however few its bytes, decompresses to
_LZMA_MEMORY = 128 * 1024 * 1024  # xz -9 needs 65 MiB; a hostile header may ask for gigabytes


def mime_type(name: str) -> str:
    """The mime type that the ``compression`` header carries for a name (``gzip``, ``zstd``, …) or mime type.

    Raises:
        ConfigurationError: unknown name.
    """
    found = _ALIASES.get(name)
    if found is None:
        hint = suggestion(str(name), NAMES) or f" Known are {', '.join(NAMES)}."
        raise ConfigurationError(f"Unknown compression {name!r}.{hint}")
    return found


def compress(body: bytes, name: str) -> bytes:
    """Compress a body.

    Raises:
        ConfigurationError: unknown name.
    """
    kind = mime_type(name)
    if kind == GZIP:
        return zlib.compress(body)
    if kind == BZIP2:
        import bz2

        return bz2.compress(body)
    if kind == LZMA:
        import lzma

        return lzma.compress(body)
    import zstandard

    return zstandard.ZstdCompressor().compress(body)


def decompress(body: bytes, name: object, max_bytes: int) -> bytes:
    """Decompress a received body; output is bounded while it is produced, so a bomb costs at most ``max_bytes``.

    Args:
        body: the compressed bytes.
        name: value of the ``compression`` header.
        max_bytes: the largest acceptable result.

    Raises:
        ContentRefused: a compression that amqtask does not have.
        DecodeError: damaged or truncated data, or a result above ``max_bytes``.
    """
    kind = _ALIASES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ContentRefused(
            f"The body is compressed with {name!r:.80}, and only {', '.join(NAMES)} can be read."
        )
    try:
        if kind == GZIP:
            return _inflate(body, max_bytes)
        if kind == BZIP2:
            import bz2

            return _expand(bz2.BZ2Decompressor(), body, max_bytes)
        if kind == LZMA:
            return _expand_lzma(body, max_bytes)
        return _expand_zstd(body, max_bytes)
    except (zlib.error, OSError, EOFError, ValueError) as error:
        raise _damaged(kind, str(error).rstrip(".")) from None


def _damaged(kind: str, why: str) -> DecodeError:
    return DecodeError(f"The compressed body ({kind}) is damaged: {why}.")


def _too_large(max_bytes: int) -> DecodeError:
    return DecodeError(
        f"The compressed body is larger than decompressed_max_bytes ({max_bytes} bytes)."
    )


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """Zlib and gzip, told apart by their first bytes. The input goes in by slices: what a call leaves over is copied."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    pieces: list[bytes] = []
    room = max_bytes
    position = 0
    rest = b""
    while not stream.eof:
        if not rest:
            rest = body[position : position + _SLICE]
            position += len(rest)
        last = position == len(body)
        piece = stream.decompress(rest, min(_CHUNK, room + 1))
        rest = stream.unconsumed_tail
        room -= len(piece)
        if room < 0:
            raise _too_large(max_bytes)
        if last and not piece and not rest and not stream.eof:
            raise EOFError(_TRUNCATED)
        pieces.append(piece)
    if stream.unused_data or position < len(body):
        raise ValueError(_TRAILING)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Expander(Protocol):
    """What the bz2 and lzma decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _expand(stream: _Expander, body: bytes, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    room = max_bytes
    feed = body
    while not stream.eof:
        piece = stream.decompress(feed, min(_CHUNK, room + 1))
        feed = b""
        room -= len(piece)
        if room < 0:
            raise _too_large(max_bytes)
        if stream.needs_input and not stream.eof:
            raise EOFError(_TRUNCATED)
        pieces.append(piece)
    if stream.unused_data:
        raise ValueError(_TRAILING)
    return b"".join(pieces)


def _expand_lzma(body: bytes, max_bytes: int) -> bytes:
    import lzma

    try:
        return _expand(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), body, max_bytes)
    except lzma.LZMAError as error:
        raise _damaged(LZMA, str(error).rstrip(".")) from None


def _expand_zstd(body: bytes, max_bytes: int) -> bytes:
    import zstandard

    try:
        size = zstandard.frame_content_size(body)
        if size > max_bytes:
            raise _too_large(max_bytes)
        window = max(8 * 1024 * 1024, max_bytes)
        decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        if size >= 0:
            return decompressor.decompress(body, allow_extra_data=False)
        # The size is not stated. The library bounds output only by the input it is given, so it gets slices that cannot
        # decompress to more than what is left: the smallest block is four bytes.
        stream = decompressor.decompressobj()
        pieces: list[bytes] = []
        room = max_bytes
        position = 0
        while position < len(body) and not stream.eof:
            step = max(16, room // _ZSTD_BLOCK * 4)
            piece = stream.decompress(body[position : position + step])
            position += step
            room -= len(piece)
            if room < 0:
                raise _too_large(max_bytes)
            pieces.append(piece)
        if not stream.eof:
            raise EOFError(_TRUNCATED)
        if stream.unused_data or position < len(body):
            raise ValueError(_TRAILING)
    except zstandard.ZstdError as error:
        raise _damaged(ZSTD, str(error).rstrip(".")) from None
    return b"".join(pieces)
