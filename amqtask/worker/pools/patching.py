"""Patching the standard library for a pool of greenlets, in a process that stays native where amqtask itself is at work.

The user's app must find a patched library from its first import on, or it keeps sockets and locks that stop every greenlet of
the process. amqtask's own side must never find one: the I/O thread is a real thread with a real socket, so that heartbeats,
limits and shutdown go on while a greenlet computes or sits in C code. Both happen in one process, the fork server, in this
order:

1. Everything that is to stay native is loaded: amqtask, its AMQP clients, asyncio, logging.
2. The modules that patching changes are loaded a second time, and these copies are put in place of the first ones in the
   modules of 1. A copy keeps what it was made with, because patching changes the first ones in place.
3. What has made locks of its own when it was loaded, ``concurrent.futures``, stays with the native side alone: it is taken out of
   the loaded modules, and the app loads another.
4. gevent or eventlet patches. What is imported from here on, the app first of all, is the user's side.

asyncio stays native as a whole, with the threads it runs functions in: event loops belong to native threads here (the node's
agent, and the loop thread for coroutine tasks). So do the locks of logging, which the I/O thread takes, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from amqtask.errors import ConfigurationError

GREENLET_POOLS: Final = ("gevent", "eventlet")

# Modules of C functions, and of functions that use nothing of what is patched: a copy of the names is enough.
_FLAT: Final = ("_thread", "os", "select", "signal", "time")
# Modules whose functions look names up in themselves or in each other: these are executed again, in this order.
_DEEP: Final = (
    "threading",
    "queue",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
)
# Modules with native locks, which greenlets would wait for with all others.
_ANEW: Final = "concurrent"
# Whose modules get the copies.
_NATIVE: Final = frozenset(
    ("amqtask", "pika", "aiormq", "aio_pika", "pamqp", "asyncio", _ANEW, "logging", "structlog")
)
# Where amqtask imports modules with their first use: they must be there before the patching, or they would find it done.
_LATE: Final = ("amqtask", "amqtask.amqp", "amqtask.core", "amqtask.results", "amqtask.worker")
_native: list[ModuleType] = []  # once patched: the native side
_LEFT_OUT: Final = frozenset(
    ("amqtask.__main__", "amqtask.broker", "amqtask.cli", "amqtask.testing")
)


def require(pool: str) -> None:
    """Raise when a pool of greenlets lacks its package; does nothing for any other pool.

    Raises:
        ConfigurationError: names the extra to install.
    """
    if pool in GREENLET_POOLS and importlib.util.find_spec(pool) is None:
        raise ConfigurationError(
            f"The {pool} pool needs the package {pool}: pip install 'amqtask[{pool}]'."
        )


def patch(pool: str) -> None:
    """Patch the standard library for what is imported after this call; does nothing for a pool without greenlets.

    Called once, on the main thread of a process without other threads, before the app is imported.

    Args:
        pool: the pool's name.
    """
    if pool not in GREENLET_POOLS:
        return
    _load()
    _native[:] = [
        module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in _NATIVE and isinstance(module, ModuleType)
    ]
    _rebind(_copies())
    for name in list(sys.modules):
        if name.partition(".")[0] == _ANEW:
            del sys.modules[name]
    with _logging_as_it_is():
        _PATCH[pool]()


def check(pool: str) -> None:
    """Raise when the app has patched the standard library for another pool than the one that runs it. After its import.

    Raises:
        ConfigurationError: names the library, and the pool to use.
    """
    for library in GREENLET_POOLS:
        if library != pool and _PATCHED[library]():
            raise ConfigurationError(
                f"The app patches the standard library for {library} while it is imported, and the {pool} pool does not work with "
                f"that: use --pool {library}, or do not patch."
            )


def strays() -> list[str]:
    """Which names of native modules still lead to a patched module; none, unless something was loaded too late."""
    ours = {name: module for name, module in sys.modules.items() if name in (*_FLAT, *_DEEP)}
    return sorted(
        f"{module.__name__}.{name}"
        for module in _native
        for name, value in vars(module).items()
        if isinstance(value, ModuleType) and ours.get(value.__name__) is value
    )


# ---------------------------------------------------------------- the native side


def _load() -> None:
    # It is loaded when it is first asked for, and would be looked for among the loaded modules then.
    assert importlib.import_module("concurrent.futures").ThreadPoolExecutor is not None
    for package in _LATE:
        path = importlib.import_module(package).__path__
        for module in pkgutil.iter_modules(path, f"{package}."):
            if module.name not in _LEFT_OUT:
                importlib.import_module(module.name)
                if module.ispkg:
                    _load_all(module.name)


def _load_all(package: str) -> None:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)


def _copies() -> dict[str, ModuleType]:
    """A second copy of each module that patching changes, tied to each other."""
    first = {name: importlib.import_module(name) for name in (*_FLAT, *_DEEP)}
    copies: dict[str, ModuleType] = {}
    try:
        for name in _FLAT:
            copy = ModuleType(name)
            vars(copy).update(vars(first[name]))
            copies[name] = sys.modules[name] = copy
        for name in _DEEP:
            del sys.modules[name]
        for name in _DEEP:
            copies[name] = importlib.import_module(name)
    finally:
        sys.modules.update(first)
    return copies


def _rebind(copies: dict[str, ModuleType]) -> None:
    """Put the copies, and what is defined in them, in place of the first ones in every native module."""
    instead: dict[int, object] = {}
    for name, copy in copies.items():
        first = sys.modules[name]
        instead[id(first)] = copy
        for attribute, value in vars(first).items():
            if getattr(value, "__module__", None) == name and attribute in vars(copy):
                instead[id(value)] = vars(copy)[attribute]
    for module in _native:
        names = vars(module)
        for name, value in list(names.items()):
            if id(value) in instead:
                names[name] = instead[id(value)]


@contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keep the locks of logging: patching replaces them, and the I/O thread must not wait for a greenlet's."""
    module: Any = logging
    lock = module._lock
    handlers = [handler for ref in module._handlerList if (handler := ref()) is not None]
    locks = [handler.lock for handler in handlers]
    try:
        yield
    finally:
        module._lock = lock
        for handler, kept in zip(handlers, locks, strict=True):
            handler.lock = kept


# ---------------------------------------------------------------- the two libraries


def _patch_gevent() -> None:
    from gevent import monkey

    with warnings.catch_warnings():
        # That ssl is imported already: by us, and our copy of it is whole.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()


def _patch_eventlet() -> None:
    with warnings.catch_warnings():
        # That its authors only mend it any more: the documentation says so, once, instead of every start.
        warnings.simplefilter("ignore")
        import eventlet
        import eventlet.hubs
        from eventlet import patcher

    module: Any = patcher
    # It would replace the reentrant locks of all that is loaded, which is native here, and complain of those it cannot reach.
    upgrade = module._green_existing_locks
    module._green_existing_locks = lambda _kind: None
    try:
        eventlet.monkey_patch()
    finally:
        module._green_existing_locks = upgrade
    eventlet.hubs.use_hub()  # patching makes a hub, and the children must not share its descriptor


def _patched_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_anything_patched())


def _patched_eventlet() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.already_patched)


_PATCHED: Final[dict[str, Callable[[], bool]]] = {
    "gevent": _patched_gevent,
    "eventlet": _patched_eventlet,
}
_PATCH: Final[dict[str, Callable[[], None]]] = {
    "gevent": _patch_gevent,
    "eventlet": _patch_eventlet,
}
