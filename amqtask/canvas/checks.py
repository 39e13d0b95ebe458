"""What is wrong with what was given for a signature: one sentence, where it was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from amqtask.errors import ConfigurationError

ENDLESS: Final = (
    "This workflow contains itself somewhere, or is nested too deeply: where a signature stands inside itself put a copy of"
    " it, sig.clone()."
)


def no_signature(
    value: object, before: str = "A workflow is made of signatures, not of"
) -> TypeError:
    """The error for something else than a signature.

    Args:
        value: what was given.
        before: how the sentence begins.
    """
    name = getattr(value, "name", None)
    if isinstance(name, str) and hasattr(value, "signature"):
        return TypeError(
            f"{before} the task {name!r} itself: write {name.rpartition('.')[2]}.s(…) for a call of it."
        )
    return TypeError(f"{before} {type(value).__name__}: write task.s(…) for the call of a task.")


def linkable(value: object, function: str) -> None:
    """Refuse a callback that is no signature.

    Raises:
        TypeError: it says what to write.
    """
    if not isinstance(value, (dict, Mapping)):
        raise no_signature(value, f"{function} takes a signature, not")
    if not isinstance(value.get("task"), str):
        raise TypeError(f"{function} takes a signature, not a mapping that names no task.")


def refuse_loop(outer: object, inner: Mapping[str, Any], what: str) -> None:
    """Refuse a signature that contains another one, the very same object, for what that gets.

    Raises:
        ConfigurationError: it contains it.
    """
    if outer is inner or any(part is inner for part in _parts(outer)):
        raise ConfigurationError(
            f"The signature {inner['task']!r} cannot have itself as {what}, also not as a part of it: give it a copy, sig.clone()."
        )


def _parts(sig: object) -> Iterator[object]:
    """The signatures in a signature and in its callbacks, without those that a generator has not made yet."""
    known: set[int] = set()
    left = [sig]
    while left:
        one = left.pop()
        if not isinstance(one, Mapping) or id(one) in known:
            continue
        known.add(id(one))
        yield one
        left += _inside(one)


def refuse_endless(sig: Mapping[str, Any]) -> None:
    """Refuse a workflow that contains itself, before it is run here.

    Raises:
        ConfigurationError: it does.
    """
    above: set[int] = set()  # those that the one looked at is in
    left: list[tuple[object, bool]] = [(sig, False)]
    while left:
        one, done = left.pop()
        if done:
            above.discard(id(one))
        elif isinstance(one, Mapping):
            if id(one) in above:
                raise ConfigurationError(ENDLESS)
            above.add(id(one))
            left.append((one, True))
            left += [(each, False) for each in _inside(one)]


def _inside(sig: Mapping[str, Any]) -> Iterator[object]:
    """The signatures that one is made of, and its callbacks."""
    options = sig.get("options")
    if options and isinstance(options, Mapping):
        for name in ("link", "link_error"):
            yield from _listed(options.get(name))
    kwargs = sig.get("kwargs")
    if sig.get("subtask_type") and isinstance(kwargs, Mapping):
        for name in ("tasks", "header", "body", "task"):
            yield from _listed(kwargs.get(name))


def _listed(value: object) -> Iterable[object]:
    if isinstance(value, list):
        return list.__iter__(value)  # of a lazy one, what came so far
    return value if isinstance(value, tuple) else (value,)


def well_formed(form: Mapping[str, Any]) -> None:
    """Refuse a mapping that is no dictionary form of a signature.

    Raises:
        TypeError: it says which place has the wrong type.
    """
    task, kind = form.get("task"), form.get("subtask_type")
    if not isinstance(task, str) or not task:
        raise TypeError(f"A signature names its task by a text, not {task!r}.")
    if kind is not None and not isinstance(kind, str):
        raise TypeError(f"The signature of {task!r} names its kind by a text, not {kind!r}.")
    for name, types, what in _PLACES:
        value = form.get(name)
        if value is not None and not isinstance(value, types):
            raise TypeError(
                f"The signature of {task!r} has {name} that are no {what}, but {type(value).__name__}."
            )
    for name in ("kwargs", "options"):
        for key in form.get(name) or ():
            if not isinstance(key, str):
                raise TypeError(
                    f"The signature of {task!r} has {name} whose names are no texts: {key!r}."
                )
    options = form.get("options")
    if not options:
        return
    for name in ("link", "link_error"):
        links = options.get(name)
        for each in (
            links if isinstance(links, (list, tuple)) else () if links is None else (links,)
        ):
            if not isinstance(each, Mapping):
                raise no_signature(each, f"A {name} of the signature {task!r} is a signature, not")
    stamped = options.get("stamped_headers")
    if stamped is not None and not (
        isinstance(stamped, (list, tuple, set, frozenset))
        and all(isinstance(name, str) for name in stamped)
    ):
        raise TypeError(f"The signature of {task!r} has stamped_headers that are no list of texts.")


_PLACES: Final = (
    ("args", (list, tuple), "list"),
    # A dictionary is told at once, any other mapping is asked for.
    ("kwargs", (dict, Mapping), "mapping"),
    ("options", (dict, Mapping), "mapping"),
)


def part(form: Mapping[str, Any], name: str) -> Any:
    """What a kind of signature keeps under a name in its ``kwargs``.

    Raises:
        ValueError: there is nothing.
    """
    kwargs = form.get("kwargs") or {}
    if name not in kwargs:
        raise ValueError(
            f"The dictionary form of a {form.get('subtask_type')} has {name!r} in its kwargs; here it is missing."
        )
    return kwargs[name]


def parts(form: Mapping[str, Any], name: str) -> Iterable[Any]:
    """The same, which is several signatures.

    Raises:
        TypeError: it is not.
        ValueError: there is nothing.
    """
    value = part(form, name)
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"The {name!r} of a {form.get('subtask_type')} are a list of signatures, not {type(value).__name__}."
        )
    return value  # type: ignore[no-any-return]  # it can be iterated


def sized(size: object) -> int:
    """How many calls of ``chunks`` a message is for.

    Raises:
        ValueError: no whole number from 1.
    """
    if type(size) is not int or size < 1:
        raise ValueError(
            f"chunks takes a whole number from 1 as the size of a chunk, not {size!r}."
        )
    return size


def called(task: Any, kind: str) -> Mapping[str, Any]:
    """The signature of the task that is called for each of a series.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(task, Mapping):
        raise no_signature(task, f"{kind} takes the signature of a task, not")
    if not isinstance(task.get("task"), str):
        raise TypeError(f"{kind} takes the signature of a task, not a mapping that names none.")
    return task


def iterable(it: object, function: str) -> Iterable[Any]:
    """The arguments of a series of calls.

    Raises:
        TypeError: they cannot be iterated.
    """
    if not hasattr(it, "__iter__"):
        raise TypeError(
            f"{function} takes a list of arguments, one for each call, not {type(it).__name__}."
        )
    return it
