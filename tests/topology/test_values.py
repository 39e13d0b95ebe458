"""Single values: each kind of the grammar, and what is said of what is none."""

from __future__ import annotations

from typing import Any

import pytest

from amqtask.topology.grammar import Key
from amqtask.topology.nodes import Walk, compose
from amqtask.topology.problems import Problems
from amqtask.topology.values import Values


def read(text: str, kind: Any, **bounds: Any) -> tuple[Any, tuple[str, ...]]:
    """A value, and what was said."""
    problems = Problems("t.yaml")
    node = compose(text, "t.yaml")
    assert node is not None
    problems.mark(("x",), node)
    value = Values(problems, Walk(problems)).readers[kind](
        node, ("x",), Key(name="x", kind=kind, doc="", **bounds)
    )
    return value, problems.lines()


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("2024-05-01", "text", "2024-05-01"),
        ("2h", "duration", 7200.0),
        ("90", "duration", 90.0),
        ("16KiB", "size", 16384),
        ("'true'", "name", "true"),
        ("false", "boolean", False),
        ("{x-a: [1, {b: ~}], x-c: no}", "arguments", {"x-a": [1, {"b": None}], "x-c": "no"}),
        ("~", "arguments", {}),
        ("{x-match: any, a: 1.5}", "headers", {"x-match": "any", "a": 1.5}),
    ],
)
def test_values(text: str, kind: str, value: object) -> None:
    assert read(text, kind) == (value, ())


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("3", "text", "must be text; found the number 3: write it in quotes, '3'"),
        ("''", "name", "must not be empty"),
        ("yes", "boolean", "must be true or false; found the text 'yes': write true without quotes"),
        ("'7'", "integer", "must be a whole number; found the text '7': leave the quotes out"),
        ("[]", "size", "must be a size such as 16MiB; found a list"),
        ("{a: .inf}", "arguments", "cannot be an argument: found the number .inf"),
        ("{x-match: some}", "headers", "must be all, any, all-with-x or any-with-x; found 'some'"),
    ],
)  # fmt: skip
def test_what_is_none(text: str, kind: str, said: str) -> None:
    value, (line,) = read(text, kind)

    assert not value
    assert line.endswith(f": {said}")


def test_bounds_of_a_number() -> None:
    assert read("5", "integer", minimum=1, maximum=5) == (5, ())
    value, (line,) = read("6", "integer", minimum=1, maximum=5)

    assert value is None
    assert line.endswith("must be at most 5, and it is 6")


def test_a_choice_that_was_nearly_right_goes_on_as_what_was_meant() -> None:
    value, (line,) = read("qorum", "choice", choices=("quorum", "classic"))

    assert value == "quorum"
    assert line.endswith("did you mean 'quorum'?")
