"""Whether arguments fit a function, found when a task is sent rather than when it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Parameters:
    """The parameters of a task's function, read once.

    Args:
        function: the function.
        bound: its first parameter is the task itself, which callers do not give.
    """

    def __init__(self, function: Callable[..., Any], bound: bool) -> None:
        self._name = getattr(function, "__name__", repr(function))
        self._signature: inspect.Signature | None
        try:
            signature = inspect.signature(function)
        except (
            TypeError,
            ValueError,
        ):  # some builtins have none: they can only be checked by running them
            self._signature = None
            self._fewest, self._most = 0, 1 << 30
            return
        parameters = list(signature.parameters.values())
        if bound and parameters and parameters[0].kind in _POSITIONAL:
            parameters = parameters[1:]
        self._signature = signature.replace(parameters=parameters)
        # The common call, positional arguments only, is decided by counting.
        required = [p for p in parameters if p.default is p.empty]
        positional = sum(p.kind in _POSITIONAL for p in parameters)
        star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._fewest = sum(p.kind in _POSITIONAL for p in required)
        self._most = (1 << 30) if star else positional
        if any(p.kind is p.KEYWORD_ONLY for p in required):
            self._most = -1  # never enough without keywords

    def check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Do nothing when the call is possible.

        Raises:
            TypeError: as calling the function would, with its name.
        """
        if not kwargs and self._fewest <= len(args) <= self._most:
            return
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None

    def left(self, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        """How many positional arguments a call may have beside these, as Celery counts them; a ``*args`` takes any number."""
        parameters = [] if self._signature is None else list(self._signature.parameters.values())
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return 1 << 30
        names = [p.name for p in parameters if p.kind in _POSITIONAL]
        if len(args) > len(names):
            return len(names)  # these do not fit at all
        count = 0
        for name in names[len(args) :]:
            if name in kwargs:
                break  # what comes after it can only be given by name
            count += 1
        return count

    def renewed(
        self,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        old_args: Sequence[object],
        old_kwargs: Mapping[str, object],
    ) -> tuple[Sequence[object], Mapping[str, object]]:
        """The arguments of a call of which some are given anew and the rest is as before.

        A new positional argument takes the place of an old keyword of its name, and a new keyword that of an old positional
        argument.

        Args:
            args: new positional arguments; ``None`` keeps the old.
            kwargs: new keyword arguments; ``None`` keeps the old.
            old_args: as before.
            old_kwargs: as before.
        """
        parameters = {} if self._signature is None else self._signature.parameters
        plain = [p.name for p in parameters.values() if p.kind in _POSITIONAL]
        by_name = {p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}
        if args is not None and kwargs is None:
            given = by_name.intersection(plain[: len(args)])
            return args, {name: value for name, value in old_kwargs.items() if name not in given}
        if kwargs is not None and args is None:
            positional, keywords = list(old_args), dict(kwargs)
            for index, name in enumerate(plain[: len(positional)]):
                if name in by_name and name in keywords:
                    positional[index] = keywords.pop(name)
            return positional, keywords
        return (
            old_args if args is None else args,
            old_kwargs if kwargs is None else kwargs,
        )
