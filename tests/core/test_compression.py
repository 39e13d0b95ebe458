"""Compression as Celery names it, and bombs that must not go off."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import lzma
import random
import tracemalloc
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import compression
from amqtask.core.compression import BZIP2, GZIP, LZMA, ZSTD, compress, decompress
from amqtask.errors import ConfigurationError, ContentRefused, DecodeError

kombu_compression: Any = importlib.import_module("kombu.compression")
MIB = 1024 * 1024
KINDS = [GZIP, BZIP2, LZMA, ZSTD]


def stream_zstd(data: bytes) -> bytes:
    """A frame that does not state its size."""
    writer = zstandard.ZstdCompressor().compressobj()
    return writer.compress(data) + writer.flush()


@given(st.binary(max_size=2000), st.sampled_from(KINDS))
def test_round_trip(data: bytes, kind: str) -> None:
    assert decompress(compress(data, kind), kind, max(1, len(data))) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB])
def test_round_trip_of_sizes_around_the_chunk(kind: str, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]

    assert decompress(compress(data, kind), kind, size) == data
    if size:
        with pytest.raises(DecodeError, match="decompressed_max_bytes"):
            decompress(compress(data, kind), kind, size - 1)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "lzma"])
def test_kombu_reads_ours_and_we_read_kombus(name: str) -> None:
    data = b"[[1, 2], {}, {}]" * 100
    theirs, kind = kombu_compression.compress(data, name)

    assert compression.mime_type(name) == kind
    assert decompress(theirs, kind, MIB) == data
    assert kombu_compression.decompress(compress(data, name), kind) == data


def test_gzip_is_a_zlib_stream_and_real_gzip_is_read() -> None:
    assert compress(b"x", "gzip")[:2] == b"\x78\x9c"
    assert decompress(gzip.compress(b"x" * 1000), GZIP, MIB) == b"x" * 1000


def test_zstd_without_a_stated_size() -> None:
    data = bytes(range(256)) * 20_000

    assert decompress(stream_zstd(data), ZSTD, len(data)) == data
    with pytest.raises(DecodeError, match="decompressed_max_bytes"):
        decompress(stream_zstd(data), ZSTD, len(data) - 1)


def test_names_of_celery() -> None:
    assert {name: compression.mime_type(name) for name in compression.NAMES} == {
        "gzip": "application/x-gzip",
        "zlib": "application/x-gzip",
        "bzip2": "application/x-bz2",
        "bzip": "application/x-bz2",
        "lzma": "application/x-lzma",
        "xz": "application/x-lzma",
        "zstd": "application/zstd",
        "zstandard": "application/zstd",
    }
    with pytest.raises(ConfigurationError, match="Did you mean 'gzip'"):
        compress(b"", "gzipp")


@pytest.mark.parametrize("name", ["application/x-brotli", "", 5, None, b"gzip", "x" * 1000])
def test_unknown_compression_is_refused(name: object) -> None:
    with pytest.raises(ContentRefused, match="can be read"):
        decompress(b"", name, MIB)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=300), cut=st.integers(0, 299))
def test_damaged_data_is_a_decode_error(kind: str, data: bytes, cut: int) -> None:
    whole = compress(data, kind)
    for body in (data, whole[: cut % len(whole)], whole + b"more", b"", stream_zstd(data)[:-1]):
        with contextlib.suppress(DecodeError):
            decompress(body, kind, MIB)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_data_is_damaged(kind: str) -> None:
    whole = compress(bytes(range(256)) * 40, kind)
    for body in (whole[:-1], whole[:10], b""):
        with pytest.raises(DecodeError, match="damaged"):
            decompress(body, kind, MIB)


def test_a_large_body_that_hardly_compresses() -> None:
    data = random.Random(1).randbytes(3 * MIB)

    assert decompress(compress(data, GZIP), GZIP, 3 * MIB) == data


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_are_damage(kind: str) -> None:
    with pytest.raises(DecodeError, match="damaged"):
        decompress(compress(b"x" * 100, kind) + b"more", kind, MIB)


BOMB = bytes(256 * MIB)


@pytest.mark.parametrize(
    ("kind", "bomb"),
    [
        (GZIP, lambda: zlib.compress(BOMB, 1)),
        (GZIP, lambda: gzip.compress(BOMB)),
        (BZIP2, lambda: bz2.compress(bytes(32 * MIB), 1)),
        (LZMA, lambda: lzma.compress(BOMB, preset=0)),
        (ZSTD, lambda: zstandard.ZstdCompressor().compress(BOMB)),
        (ZSTD, lambda: stream_zstd(BOMB)),
    ],
    ids=["zlib", "gzip", "bzip2", "xz", "zstd", "zstd-without-size"],
)
def test_a_bomb_costs_no_more_than_the_limit(kind: str, bomb: object) -> None:
    assert callable(bomb)
    body: bytes = bomb()
    limit = 4 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="decompressed_max_bytes"):
            decompress(body, kind, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < limit + 2 * MIB


def test_an_lzma_header_cannot_ask_for_gigabytes() -> None:
    body = lzma.compress(
        b"x", filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 512 * MIB}]
    )
    with pytest.raises(DecodeError, match="damaged"):
        decompress(body, LZMA, MIB)
