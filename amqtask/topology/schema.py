"""The JSON Schema of a topology file, for editors; made from the tables the parser reads by.

It covers what one mapping can tell: keys, types, ranges, what a queue type cannot have. References between parts, such as a
binding to an exchange that is not there, only the parser sees. ``python -m amqtask.topology.schema`` prints it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from amqtask.topology import grammar
from amqtask.topology.grammar import Key, Kind
from amqtask.topology.keys import MAX_KEY_BYTES
from amqtask.topology.ladder import PREFIX_LENGTH, PREFIX_PATTERN
from amqtask.topology.units import DURATION_PATTERN, SIZE_PATTERN

Schema: TypeAlias = dict[str, Any]


def json_schema() -> Schema:
    """The schema, as plain data."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://raw.githubusercontent.com/amqtask/amqtask/main/routing/topology.schema.json",
        "title": "amqtask topology",
        "description": "Exchanges, queues, bindings and routes of one RabbitMQ virtual host.",
        **_mapping(grammar.TOP),
        "$defs": {
            "binding": _nullable_unless_required(grammar.BINDING),
            "dead_letter": _mapping(grammar.DEAD_LETTER),
            "dead_queue": {**_mapping(grammar.DEAD_QUEUE), "minProperties": 1},
            "defaults": _nullable_unless_required(grammar.DEFAULTS),
            "delays": _mapping(grammar.DELAYS),
            "exchange": _nullable_unless_required(grammar.EXCHANGE),
            "queue": _queue(),
            "route": _route(),
            "arguments": {
                "type": ["object", "null"],
                "propertyNames": {"not": {"enum": sorted(grammar.OWN_ARGUMENTS)}},
            },
            "headers": {
                "type": ["object", "null"],
                "properties": {"x-match": {"enum": list(grammar.X_MATCHES)}},
            },
        },
    }


def text() -> str:
    """The schema file's text."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _mapping(keys: tuple[Key, ...]) -> Schema:
    required = [key.name for key in keys if key.required]
    return {
        "type": "object",
        "properties": {key.name: _value(key) for key in keys},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _nullable_unless_required(keys: tuple[Key, ...]) -> Schema:
    """``email:`` with nothing behind it is an empty mapping, where no key is required."""
    schema = _mapping(keys)
    return schema if "required" in schema else {**schema, "type": ["object", "null"]}


def _queue() -> Schema:
    schema = _nullable_unless_required(grammar.QUEUE)
    rules = []
    for kind in grammar.QUEUE_TYPES:
        refused: dict[str, Any] = {
            key.name: {"const": False} for key in grammar.QUEUE if kind in key.refused
        }
        if kind != "classic":
            refused["durable"] = {"const": True}
        if kind == "quorum":
            refused["overflow"] = {"enum": [o for o in grammar.OVERFLOWS if "dlx" not in o]}
        rules.append(
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"properties": refused},
            }
        )
    return {**schema, "allOf": rules}


def _route() -> Schema:
    return {
        **_mapping(grammar.ROUTE),
        "oneOf": [
            {"required": ["queue"], "not": {"required": ["routing_key"]}},
            {"required": ["exchange"]},
        ],
    }


def _value(key: Key) -> Schema:
    schema = _KINDS[key.kind](key)
    described = {**schema, "description": key.doc[0].upper() + key.doc[1:] + "."}
    if key.default:
        described["description"] += f" Default: {key.default}."
    return described


def _range(key: Key) -> Schema:
    limits: Schema = {}
    if key.minimum is not None:
        limits["minimum"] = key.minimum
    if key.maximum is not None:
        limits["maximum"] = key.maximum
    return limits


def _named(what: str) -> Schema:
    return {
        "type": ["object", "null"],
        "propertyNames": {
            "minLength": 1,
            "maxLength": grammar.MAX_NAME_BYTES,
            "pattern": r"^(?!amq\.)[^\x00-\x1f\x7f]*$",
        },
        "additionalProperties": {"$ref": f"#/$defs/{what}"},
    }


def _list(what: str) -> Schema:
    return {"type": ["array", "null"], "items": {"$ref": f"#/$defs/{what}"}}


_KINDS: Mapping[Kind, Callable[[Key], Schema]] = {
    "version": lambda key: {"const": grammar.VERSION},
    "text": lambda key: {"type": "string"},
    "name": lambda key: {"type": "string", "minLength": 1, "maxLength": grammar.MAX_NAME_BYTES},
    "key": lambda key: {"type": "string", "maxLength": MAX_KEY_BYTES},
    "glob": lambda key: {"type": "string", "minLength": 1},
    "boolean": lambda key: {"type": "boolean"},
    "integer": lambda key: {"type": "integer", **_range(key)},
    "duration": lambda key: {
        "oneOf": [
            {"type": "number", **_range(key)},
            {"type": "string", "pattern": DURATION_PATTERN},
        ]
    },
    "size": lambda key: {
        "oneOf": [
            {"type": "integer", **_range(key)},
            {"type": "string", "pattern": SIZE_PATTERN},
        ]
    },
    "choice": lambda key: {"enum": list(key.choices)},
    "arguments": lambda key: {"$ref": "#/$defs/arguments"},
    "headers": lambda key: {"$ref": "#/$defs/headers"},
    "bindings": lambda key: _list("binding"),
    "dead_letter": lambda key: {
        "oneOf": [
            {"type": "boolean"},
            {"$ref": "#/$defs/dead_letter"},
            {"$ref": "#/$defs/dead_queue"},
        ]
    },
    "defaults": lambda key: {"$ref": "#/$defs/defaults"},
    "delays": lambda key: {"oneOf": [{"type": "boolean"}, {"$ref": "#/$defs/delays"}]},
    "prefix": lambda key: {
        "type": "string",
        "pattern": f"^{PREFIX_PATTERN}$",
        "maxLength": PREFIX_LENGTH,
    },
    "exchanges": lambda key: _named("exchange"),
    "queues": lambda key: _named("queue"),
    "routes": lambda key: _list("route"),
}


if __name__ == "__main__":
    sys.stdout.write(text())
