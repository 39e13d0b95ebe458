"""Routing keys: topic matching against a naive reference, and whether templates can match."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amqtask.topology.keys import (
    Shape,
    has_placeholders,
    render,
    task_matches,
    template_problem,
    topic_matches,
)

WORD = st.sampled_from(["a", "b", "ab", ""])
KEY = st.lists(WORD, max_size=5).map(".".join)
PATTERN = st.lists(st.sampled_from(["a", "b", "ab", "", "*", "#"]), max_size=5).map(".".join)
NAME = st.lists(st.sampled_from(["a", "b", "ab", "send_x"]), min_size=1, max_size=4).map(".".join)
GLOB = st.lists(
    st.sampled_from(["a", "b", "ab", ".", "*", "?", "[ab]", "send_x"]), min_size=1, max_size=5
).map("".join)
TEMPLATE = st.lists(
    st.sampled_from(["a", "b", ".", "{name}", "{task}"]), min_size=1, max_size=4
).map("".join)


def naive(pattern: list[str], key: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(naive(pattern[1:], key[count:]) for count in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and naive(pattern[1:], key[1:])


def split(key: str) -> list[str]:
    return key.split(".") if key else []


@given(PATTERN, KEY)
def test_topic_matching_is_the_definition(pattern: str, key: str) -> None:
    assert topic_matches(pattern, key) == naive(split(pattern), split(key))


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("*.b", ".b", True),
        ("*", "a.b", False),
        ("#.b.#", "a.b.c", True),
        ("#.#", "", True),
        ("a*", "ab", False),
    ],
)
def test_topic_examples(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(pattern, key) is matches


def test_many_wildcards_stay_cheap() -> None:
    assert not topic_matches(".".join(["#", "a"] * 60), ".".join(["a"] * 200 + ["b"]))


@given(TEMPLATE, GLOB, NAME, PATTERN)
def test_no_key_a_route_can_make_is_missed(
    template: str, glob: str, task: str, pattern: str
) -> None:
    assume(task_matches(glob, task))
    shape = Shape.of_route(template, glob)
    key = render(template, task)

    assert shape.can_be(key)
    if topic_matches(pattern, key):
        assert shape.can_match(pattern)


@given(PATTERN, PATTERN, KEY)
def test_patterns_with_a_key_in_common_can_match(one: str, other: str, key: str) -> None:
    if topic_matches(one, key):
        assert Shape(pattern=one).can_be(key)
        if topic_matches(other, key):
            assert Shape(pattern=one).can_match(other)


@pytest.mark.parametrize(
    ("template", "glob", "pattern", "can"),
    [
        ("email.{name}", "shop.email.*", "email.#", True),
        ("email.{name}", "shop.email.*", "email.*", True),
        ("email.{name}", "shop.email.*", "mail.#", False),
        ("email.{name}", "shop.email.*", "email", False),
        ("email.{name}", "shop.email.*", "email.*.*", False),
        ("email.{name}", "shop.email.send", "email.send", True),
        ("email.{name}", "shop.email.send", "email.receive", False),
        ("{task}", "shop.*", "shop.#", True),
        ("{task}", "shop.*", "crm.#", False),
        ("{task}", "shop.*", "*.*.*", True),
        ("{task}", "shop.email", "*.*.*", False),
        ("{name}.low", "*", "#.high", False),
        ("{name}.low", "*", "#.low", True),
    ],
)
def test_templates_and_patterns(template: str, glob: str, pattern: str, can: bool) -> None:
    assert Shape.of_route(template, glob).can_match(pattern) is can


def test_rendering() -> None:
    assert render("email.{name}", "shop.email.send") == "email.send"
    assert render("x.{task}", "shop.email.send") == "x.shop.email.send"
    assert render("{name}", "send") == "send"
    assert render("{task}", "{name}") == "{name}"
    assert has_placeholders("a.{name}")
    assert not has_placeholders("a.name")


@pytest.mark.parametrize("template", ["{nme}", "{}", "{name", "name}", "{{name}}", "{a}{name}"])
def test_bad_templates(template: str) -> None:
    assert template_problem(template) is not None


def test_good_templates() -> None:
    assert template_problem("a.{name}.{task}") is None


@given(GLOB, NAME)
def test_globs_are_fnmatch_with_case(glob: str, task: str) -> None:
    assert task_matches(glob, task) == bool(re.match(fnmatch.translate(glob), task))


def test_globs_cross_dots_and_mind_case() -> None:
    assert task_matches("shop.*", "shop.email.send")
    assert not task_matches("shop.*", "Shop.send")
