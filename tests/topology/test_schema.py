"""The JSON Schema: the committed file, and its agreement with the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from amqtask.errors import TopologyError
from amqtask.topology import grammar
from amqtask.topology.parse import parse
from amqtask.topology.schema import json_schema, text

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_committed_schema_is_the_generated_one() -> None:
    assert (ROOT / "routing" / "topology.schema.json").read_text() == text(), (
        "run: python -m amqtask.topology.schema > routing/topology.schema.json"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", sorted((ROOT / "routing").glob("*.yaml")), ids=lambda p: p.name)
def test_the_files_in_routing_fit_and_name_the_schema(path: Path) -> None:
    VALIDATOR.validate(YAML(typ="safe").load(path.read_text()))
    assert path.read_text().startswith("# yaml-language-server: $schema=topology.schema.json\n")


def agree(document: dict[str, Any], valid: bool) -> None:
    """JSON is YAML, so one text serves both."""
    try:
        parse(json.dumps(document), "t.json")
        read = True
    except TopologyError:
        read = False
    assert (VALIDATOR.is_valid(document), read) == (valid, valid)


QUEUES: list[tuple[dict[str, Any] | None, bool]] = [
    ({}, True),
    (None, True),
    ({"type": "classic", "max_priority": 9}, True),
    ({"type": "quorum", "max_priority": 9}, False),
    ({"type": "stream", "max_priority": 9}, False),
    ({"type": "classic", "max_priority": True}, False),
    ({"type": "classic", "max_priority": 0}, False),
    ({"type": "classic", "max_priority": "9"}, False),
    ({"type": "quorom"}, False),
    ({"type": "quorum", "durable": False}, False),
    ({"type": "classic", "durable": False}, True),
    ({"type": "quorum", "durable": True}, True),
    ({"type": "quorum", "overflow": "reject-publish-dlx"}, False),
    ({"type": "classic", "overflow": "reject-publish-dlx"}, True),
    ({"overflow": "reject-publish"}, True),
    ({"type": "stream", "dead_letter": False}, True),
    ({"type": "stream", "dead_letter": True}, False),
    ({"type": "stream", "message_ttl": "1s"}, False),
    ({"type": "classic", "delivery_limit": 3}, False),
    ({"delivery_limit": 3}, True),
    ({"delivery_limit": -1}, False),
    ({"message_ttl": "1h30m"}, True),
    ({"message_ttl": 0.5}, True),
    ({"message_ttl": "1x"}, False),
    ({"message_ttl": -1}, False),
    ({"message_ttl": None}, False),
    ({"max_length_bytes": "16MiB"}, True),
    ({"max_length_bytes": "16Mib"}, False),
    ({"max_length_bytes": 0}, False),
    ({"dead_letter": "yes"}, False),
    ({"dead_letter": {"exchange": "", "routing_key": "other"}}, True),
    ({"dead_letter": {"ttl": "14d", "max_length": 5, "max_length_bytes": "1GB"}}, True),
    ({"dead_letter": {"ttl": "14d", "exchange": ""}}, False),
    ({"dead_letter": {"routing_key": "other"}}, False),
    ({"dead_letter": {"exchange": "", "routing_key": "other", "x": 1}}, False),
    ({"bindings": [{"exchange": "tasks", "routing_key": "a.#"}]}, True),
    ({"bindings": [{"exchange": "heads", "arguments": {"x-match": "any", "x-queue-type": 1}}]}, True),
    ({"bindings": [{"exchange": "heads", "arguments": {"x-match": "some"}}]}, False),
    ({"bindings": [{"exchange": "", "routing_key": "a.#"}]}, False),
    ({"bindings": [{"routing_key": "a.#"}]}, False),
    ({"bindings": {"exchange": "tasks"}}, False),
    ({"bindings": None}, True),
    ({"arguments": {"x-foo": [1, {"a": None}]}}, True),
    ({"arguments": {"x-max-priority": 9}}, False),
    ({"arguments": []}, False),
    ({"unknown": 1}, False),
    ({"single_active_consumer": True, "consumer_timeout": "2h", "max_crashes": 1, "expires": 60}, True),
    ({"single_active_consumer": 1}, False),
    ({"max_crashes": 0}, False),
]  # fmt: skip


@pytest.mark.parametrize(("queue", "valid"), QUEUES)
def test_schema_and_parser_agree_on_queues(queue: dict[str, Any] | None, valid: bool) -> None:
    agree(
        {
            "version": 1,
            "exchanges": {"tasks": {"type": "topic"}, "heads": {"type": "headers"}},
            "queues": {"q": queue, "other": None},
        },
        valid,
    )


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, False),
        ({"version": 2}, False),
        ({"version": "1"}, False),
        ({"version": 1, "vhost": "x", "defaults": {}, "queues": None, "exchanges": None, "routes": None}, True),
        ({"version": 1, "vhost": 5}, False),
        ({"version": 1, "defaults": {"type": "classic", "max_crashes": 5, "dead_letter": False}}, True),
        ({"version": 1, "defaults": {"max_priority": 5}}, False),
        ({"version": 1, "exchanges": {"e": {"type": "topic", "durable": False, "internal": True}}}, True),
        ({"version": 1, "exchanges": {"e": {"type": "x-delayed"}}}, False),
        ({"version": 1, "exchanges": {"e": {"durable": "yes"}}}, False),
        ({"version": 1, "exchanges": {"amq.e": {}}}, False),
        ({"version": 1, "queues": {"": {}}}, False),
        ({"version": 1, "queues": {"a\nb": {}}}, False),
        ({"version": 1, "queues": []}, False),
        ({"version": 1, "bindings": []}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*", "queue": "q", "priority": 5}]}, True),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*", "exchange": "", "routing_key": "q"}]}, True),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*", "exchange": "", "queue": "q"}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*", "queue": "q", "routing_key": "q"}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*"}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"queue": "q"}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "", "queue": "q"}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": [{"task": "*", "queue": "q", "priority": 256}]}, False),
        ({"version": 1, "queues": {"q": {}}, "routes": {}}, False),
    ],
)  # fmt: skip
def test_schema_and_parser_agree_on_the_rest(document: dict[str, Any], valid: bool) -> None:
    agree(document, valid)


SCALAR = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        9,
        1.5,
        -1,
        "",
        "x",
        "quorum",
        "classic",
        "stream",
        "drop-head",
        "2h",
        "3MiB",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([key.name for key in grammar.QUEUE]), SCALAR, max_size=4))
def test_what_the_parser_takes_the_schema_takes(queue: dict[str, Any]) -> None:
    document = {"version": 1, "queues": {"q": queue}}
    try:
        parse(json.dumps(document), "t.json")
    except TopologyError:
        return

    assert VALIDATOR.is_valid(document)


def test_every_key_is_in_the_reference_page() -> None:
    page = (ROOT / "docs" / "reference" / "topology.md").read_text()
    tables = (grammar.TOP, grammar.DEFAULTS, grammar.EXCHANGE, grammar.QUEUE, grammar.BINDING,
              grammar.DEAD_LETTER, grammar.DEAD_QUEUE, grammar.ROUTE)  # fmt: skip

    for key in {key for table in tables for key in (k.name for k in table)}:
        assert f"`{key}`" in page, key
    for argument in grammar.OWN_ARGUMENTS:
        assert f"`{argument}`" in page, argument
