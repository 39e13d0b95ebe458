"""YAML nodes: what they are, how they are called in messages, and the walk through them."""

from __future__ import annotations

from typing import Any

import pytest

from amqtask.errors import TopologyError
from amqtask.topology import nodes
from amqtask.topology.nodes import Walk, compose
from amqtask.topology.problems import Problems


def node(text: str) -> Any:
    root = compose(text, "t.yaml")
    assert root is not None
    return root


def test_nothing_is_no_node() -> None:
    assert compose("# only a comment", "t.yaml") is None


def test_what_is_no_yaml_says_where() -> None:
    with pytest.raises(TopologyError) as caught:
        compose("a:\n\t- b", "t.yaml")

    assert caught.value.problems == (
        "t.yaml:2:1: not valid YAML: a tab; YAML is indented with spaces only",
    )


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("{a: 1}", "map", "found a mapping"),
        ("[1]", "seq", "found a list"),
        ("~", "null", "found nothing"),
        ("yes", "str", "found the text 'yes'"),
        ("true", "bool", "found the boolean true"),
        ("0x10", "int", "found the number 0x10"),
        ("1.5", "float", "found the number 1.5"),
        ("!own 1", "own", "found the unknown tag '!own'"),
    ],
)
def test_kinds_and_how_they_are_called(text: str, kind: str, said: str) -> None:
    root = node(text)

    assert nodes.is_a(root, kind) is (kind != "own")
    assert nodes.found(root) == said


@pytest.mark.parametrize(
    ("text", "number"),
    [("0x10", 16), ("0o17", 15), ("-3", -3), ("1.5", 1.5), ("9" * 31, None), ("x", None)],
)
def test_numbers(text: str, number: float | None) -> None:
    assert nodes.number(node(text)) == number


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("yes", ": write true without quotes"),
        ("'False'", ": write false without quotes"),
        ("x", ""),
    ],
)
def test_a_text_that_was_meant_as_a_boolean(text: str, hint: str) -> None:
    assert nodes.yes_no(node(text)) == hint


MERGED = """
base: &base {a: 1, b: 2}
own:
  <<: *base
  b: 3
"""


def test_own_entries_come_before_merged_ones() -> None:
    problems = Problems("t.yaml")
    walk = Walk(problems)
    (_, own) = [value for _, value in walk.entries(node(MERGED), ())]

    assert nodes.names_in(own) == {"a", "b"}
    assert [(name, value.value) for name, value in walk.entries(own, ("own",))] == [
        ("b", "3"),
        ("a", "1"),
    ]
    assert not problems


def test_a_key_twice_is_reported_where_it_stands_again() -> None:
    problems = Problems("t.yaml")

    assert [name for name, _ in Walk(problems).entries(node("a: 1\nb: 2\na: 3"), ())] == ["a", "b"]
    assert problems.lines() == ("t.yaml:3:1: a: duplicate key, first written in line 1",)


def test_the_walk_ends_where_aliases_expand_without_end() -> None:
    problems = Problems("t.yaml")
    walk = Walk(problems)

    entered = sum(walk.enter(("arguments",)) for _ in range(nodes.MAX_VALUES + 10))

    assert entered == nodes.MAX_VALUES - 1
    assert len(problems) == 1
