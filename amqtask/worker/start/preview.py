"""The app's settings, before the worker starts: how many children there will be is known before the app is imported for them.

The supervisor must not import the app, or a reload would find the old modules. So a process of its own imports it, says what
its settings are, and ends. What it prints meanwhile is dropped: the import that counts prints it again.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

import msgspec

from amqtask.errors import BootFailed
from amqtask.loading import load_app
from amqtask.settings import Settings
from amqtask.worker.forking.forkserver import refusal
from amqtask.worker.forking.lineage import die_with
from amqtask.worker.pools.patching import patch


class AppRefused(BootFailed):
    """The app cannot be imported; ``traceback`` has the user's frames, for the debug level."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(reason)


class _Answer(msgspec.Struct):
    settings: Settings | None = None
    reason: str = ""
    traceback: str = ""


def app_settings(target: str, pool: str = "") -> Settings:
    """The settings of an app, imported in a short-lived process. The main thread of a process without threads.

    Args:
        target: the app's name, as ``load_app`` takes it.
        pool: the pool that the command line names. A pool of greenlets patches the standard library, with which an app may be
            imported otherwise than without.

    Raises:
        AppRefused: the app cannot be imported, in one sentence.
    """
    ours, theirs = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _answer(target, pool, parent, theirs)
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(pid, 0)
    except BaseException:  # Ctrl-C: the import goes with us
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if not data:
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise AppRefused(f"Importing {target} ended the process ({how}).")
    answer = msgspec.msgpack.decode(data, type=_Answer)
    if answer.settings is None:
        raise AppRefused(answer.reason, answer.traceback)
    return answer.settings


def _answer(target: str, pool: str, parent: int, pipe: int) -> NoReturn:
    """Import the app in a process just forked, write its settings to the pipe, and end."""
    try:
        die_with(parent)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.stdout = sys.stderr = os.fdopen(null, "w")  # they may be something else than 1 and 2
        try:
            patch(pool)
            answer = _Answer(settings=load_app(target).settings)
        except BaseException as error:  # noqa: BLE001  # SystemExit in the user's module is a failed import too
            # load_app puts the user's exception into a sentence; behind it are the user's frames
            raised = error.__context__ or error
            answer = _Answer(
                reason=refusal(error).reason,
                traceback="".join(traceback.format_exception(raised)),
            )
        left = memoryview(msgspec.msgpack.encode(answer))
        while left:
            left = left[os.write(pipe, left) :]
    finally:
        os._exit(0)
