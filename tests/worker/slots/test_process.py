"""What befalls a process: what it is short of."""

from __future__ import annotations

import errno

import pytest

from amqtask.worker.slots.process import resident_kib, starved


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENFILE, "too many open files in system"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (ValueError(errno.EMFILE), False),
    ],
)
def test_no_more_descriptors(error: BaseException, told: bool) -> None:
    assert starved(error) is told


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_kib()
    held = bytearray(b"x" * 64 * 1024 * 1024)

    assert resident_kib() - before > 32 * 1024
    assert len(held) == 64 * 1024 * 1024
