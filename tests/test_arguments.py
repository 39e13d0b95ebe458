"""Arguments are judged as calling the function would."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.arguments import Parameters


def plain(a: int, b: int = 2) -> None: ...
def keyword_only(a: int, *, b: int, c: int = 3) -> None: ...
def positional_only(a: int, b: int, /, c: int = 1) -> None: ...
def starred(a: int, *rest: int, k: int = 1) -> None: ...
def open_ended(a: int, **more: int) -> None: ...
def nothing() -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    plain, keyword_only, positional_only, starred, open_ended, nothing,
]  # fmt: skip


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["a", "b", "c", "k", "z"]), st.integers(), max_size=3),
)
def test_agrees_with_calling(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        function(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False

    if fits:
        Parameters(function, bound=False).check(args, kwargs)
    else:
        with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) "):
            Parameters(function, bound=False).check(args, kwargs)


def test_a_bound_function_is_called_without_its_first_parameter() -> None:
    parameters = Parameters(plain, bound=True)

    parameters.check((1,), {})
    with pytest.raises(TypeError, match="plain"):
        parameters.check((1, 2), {})


def test_a_builtin_without_a_signature_is_let_through() -> None:
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(type)

    Parameters(type, bound=False).check((1, 2, 3, 4, 5), {"x": 1})
