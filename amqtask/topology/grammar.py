"""The grammar of a topology file, as tables.

The parser reads by these tables, the JSON Schema is generated from them, and a test holds the reference page to them, so a
key exists everywhere or nowhere.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from amqtask.topology.model import DEFAULT_DELIVERY_LIMIT, DEFAULT_MAX_CRASHES

Kind = Literal[
    "version",
    "text",  # any text
    "name",  # of an exchange or a queue: text of 1 to 255 bytes
    "key",  # a routing key: text of at most 255 bytes
    "glob",  # over task names: text, not empty
    "boolean",
    "integer",
    "duration",
    "size",
    "choice",
    "arguments",  # a mapping from text to anything an AMQP table holds
    "headers",  # a mapping like it, in which x-match has its meaning
    "bindings",  # a list of mappings by BINDING
    "dead_letter",  # true, false, or a mapping by DEAD_LETTER or by DEAD_QUEUE
    "defaults",  # a mapping by DEFAULTS
    "delays",  # true, false, or a mapping by DELAYS
    "prefix",  # of the delay ladder's names
    "exchanges",  # a mapping from names to mappings by EXCHANGE
    "queues",  # a mapping from names to mappings by QUEUE
    "routes",  # a list of mappings by ROUTE
]

EXCHANGE_TYPES = ("direct", "topic", "fanout", "headers")
QUEUE_TYPES = ("quorum", "classic", "stream")
OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
X_MATCHES = ("all", "any", "all-with-x", "any-with-x")

VERSION = 1
MAX_NAME_BYTES = 255
MAX_TTL_SECONDS = 315_360_000  # ten years: more is refused by every RabbitMQ
MAX_LONG = 2**63 - 1


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a mapping.

    ``minimum`` and ``maximum`` are in the key's own unit (seconds, bytes). ``refused`` holds, by queue type, the reason why
    queues of that type cannot have the key. ``argument`` is the AMQP argument the key becomes.
    """

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: str = ""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    argument: str | None = None


_NO_STREAM = {"stream": "use type: quorum or classic"}
_QUORUM_ONLY = {
    "classic": "only quorum queues have it, so use type: quorum",
    "stream": "only quorum queues have it, so use type: quorum",
}

BINDING = (
    Key(name="exchange", kind="name", required=True, doc="the exchange messages come from"),
    Key(
        name="routing_key",
        kind="key",
        default="needed for direct and topic exchanges",
        doc="the key a direct exchange compares, or the pattern of a topic exchange: * is one word, # any number",
    ),
    Key(
        name="arguments",
        kind="headers",
        default="{}",
        doc="the headers a headers exchange compares, and x-match: all, any, all-with-x or any-with-x",
    ),
)

DEAD_LETTER = (
    Key(
        name="exchange",
        kind="text",
        required=True,
        doc='the exchange dead letters go to; "" is the default exchange, whose keys are queue names',
    ),
    Key(
        name="routing_key",
        kind="key",
        default="the key the message came with",
        argument="x-dead-letter-routing-key",
        doc="the key they get",
    ),
)

DEAD_QUEUE = (
    Key(
        name="ttl",
        kind="duration",
        minimum=1,
        maximum=MAX_TTL_SECONDS,
        default="for ever",
        doc="a dead letter is deleted after this long",
    ),
    Key(
        name="max_length",
        kind="integer",
        minimum=1,
        maximum=MAX_LONG,
        default="no limit",
        doc="dead letters kept at most; beyond it the oldest is deleted",
    ),
    Key(
        name="max_length_bytes",
        kind="size",
        minimum=1,
        maximum=MAX_LONG,
        default="no limit",
        doc="bytes of dead letters kept at most; beyond it the oldest is deleted",
    ),
)

EXCHANGE = (
    Key(name="type", kind="choice", choices=EXCHANGE_TYPES, default="direct", doc="how it routes"),
    Key(name="durable", kind="boolean", default="true", doc="survives a restart of the broker"),
    Key(
        name="auto_delete",
        kind="boolean",
        default="false",
        doc="deleted with its last binding",
    ),
    Key(
        name="internal",
        kind="boolean",
        default="false",
        doc="takes messages from other exchanges only, never from a publisher",
    ),
    Key(
        name="alternate_exchange",
        kind="name",
        argument="alternate-exchange",
        doc="gets the messages that match none of its bindings",
    ),
    Key(
        name="bindings",
        kind="bindings",
        default="[]",
        doc="the exchanges it receives from (exchange-to-exchange bindings)",
    ),
    Key(
        name="arguments",
        kind="arguments",
        default="{}",
        doc="other x-arguments, passed as they are",
    ),
)

_DEAD_LETTER_KEY = Key(
    name="dead_letter",
    kind="dead_letter",
    default="true",
    refused=_NO_STREAM,
    argument="x-dead-letter-exchange",
    doc="true: to the queue <name>.dead, which is declared with it; or its ttl, max_length and max_length_bytes; "
    "false: nowhere; or an exchange and routing key",
)
_MAX_CRASHES_KEY = Key(
    name="max_crashes",
    kind="integer",
    minimum=1,
    maximum=1_000_000,
    default=str(DEFAULT_MAX_CRASHES),
    refused=_NO_STREAM,
    doc="a message that was running when its worker process died this many times becomes a dead letter",
)
_DELIVERY_LIMIT_KEY = Key(
    name="delivery_limit",
    kind="integer",
    minimum=0,
    maximum=2**31 - 1,
    default=f"{DEFAULT_DELIVERY_LIMIT} with a dead letter",
    refused=_QUORUM_ONLY,
    argument="x-delivery-limit",
    doc="failed deliveries after which the broker itself makes the message a dead letter",
)
_CONSUMER_TIMEOUT_KEY = Key(
    name="consumer_timeout",
    kind="duration",
    minimum=1,
    maximum=MAX_TTL_SECONDS,
    default="the broker's, 30 minutes",
    refused=_QUORUM_ONLY,
    argument="x-consumer-timeout",
    doc="the broker takes a message back that was not settled for this long; above the longest task",
)

QUEUE = (
    Key(
        name="type",
        kind="choice",
        choices=QUEUE_TYPES,
        default="quorum",
        argument="x-queue-type",
        doc="quorum loses nothing; classic has strict priorities; stream keeps what was read",
    ),
    Key(
        name="durable",
        kind="boolean",
        default="true",
        doc="survives a restart of the broker; quorum queues and streams always do",
    ),
    Key(name="bindings", kind="bindings", default="[]", doc="the exchanges it receives from"),
    Key(
        name="max_priority",
        kind="integer",
        minimum=1,
        maximum=255,
        argument="x-max-priority",
        refused={
            "quorum": "RabbitMQ refuses it; use type: classic, or quorum priorities on RabbitMQ 4.3, which need no setting",
            "stream": "RabbitMQ refuses it; use type: classic",
        },
        doc="the highest priority; classic queues only; each level costs memory, so rarely above 9",
    ),
    Key(
        name="message_ttl",
        kind="duration",
        minimum=0,
        maximum=MAX_TTL_SECONDS,
        argument="x-message-ttl",
        refused=_NO_STREAM,
        doc="a message that waited this long becomes a dead letter",
    ),
    Key(
        name="expires",
        kind="duration",
        minimum=1,
        maximum=MAX_TTL_SECONDS,
        argument="x-expires",
        refused=_NO_STREAM,
        doc="the queue is deleted, with its messages, after this long without a consumer",
    ),
    Key(
        name="max_length",
        kind="integer",
        minimum=1,
        maximum=MAX_LONG,
        argument="x-max-length",
        refused=_NO_STREAM,
        doc="messages it holds at most",
    ),
    Key(
        name="max_length_bytes",
        kind="size",
        minimum=1,
        maximum=MAX_LONG,
        argument="x-max-length-bytes",
        doc="bytes of messages it holds at most",
    ),
    Key(
        name="overflow",
        kind="choice",
        choices=OVERFLOWS,
        default="drop-head; reject-publish on quorum queues with a dead letter",
        argument="x-overflow",
        refused=_NO_STREAM,
        doc="what happens when it is full: the oldest message goes, or the publisher is refused",
    ),
    _DEAD_LETTER_KEY,
    _DELIVERY_LIMIT_KEY,
    _MAX_CRASHES_KEY,
    _CONSUMER_TIMEOUT_KEY,
    Key(
        name="single_active_consumer",
        kind="boolean",
        default="false",
        argument="x-single-active-consumer",
        refused=_NO_STREAM,
        doc="one consumer at a time gets messages; the next takes over when it goes",
    ),
    Key(
        name="arguments",
        kind="arguments",
        default="{}",
        doc="other x-arguments, passed as they are",
    ),
)

DEFAULTS = (
    Key(
        name="type",
        kind="choice",
        choices=QUEUE_TYPES,
        default="quorum",
        doc="of queues that give none",
    ),
    _DEAD_LETTER_KEY,
    _MAX_CRASHES_KEY,
    _DELIVERY_LIMIT_KEY,
    _CONSUMER_TIMEOUT_KEY,
)

ROUTE = (
    Key(
        name="task",
        kind="glob",
        required=True,
        doc="a glob over full task names: * is any text, dots included; ? one character; [ab] one of these",
    ),
    Key(name="queue", kind="name", doc="the queue the tasks go to; or else an exchange"),
    Key(
        name="exchange",
        kind="text",
        doc="the exchange they are published to; or else a queue",
    ),
    Key(
        name="routing_key",
        kind="key",
        default='""',
        doc="the key they get; {task} is the full name, {name} its part after the last dot",
    ),
    Key(
        name="priority",
        kind="integer",
        minimum=0,
        maximum=255,
        doc="of the messages, higher first; up to the queue's max_priority, 31 on quorum queues",
    ),
)

DELAYS = (
    Key(
        name="prefix",
        kind="prefix",
        default="the file's name without .yaml",
        doc="part of the names of the ladder's exchanges and queues; topologies of one virtual host that share it share "
        "the ladder",
    ),
)

TOP = (
    Key(name="version", kind="version", required=True, doc="of this grammar: 1"),
    Key(
        name="vhost",
        kind="text",
        default="that of the broker's URL",
        doc="the virtual host all of this lives in",
    ),
    Key(
        name="defaults",
        kind="defaults",
        default="{}",
        doc="what queues get that do not say otherwise",
    ),
    Key(
        name="delays",
        kind="delays",
        default="true",
        doc="the delay ladder; false: `topology apply` leaves it out, and the first task sent for later declares it",
    ),
    Key(name="exchanges", kind="exchanges", default="{}", doc="exchanges by name"),
    Key(name="queues", kind="queues", default="{}", doc="queues by name"),
    Key(name="routes", kind="routes", default="[]", doc="where tasks go; the first match wins"),
)

# Arguments that have a key of their own, which checks them; raw `arguments` must not go round it.
OWN_ARGUMENTS: dict[str, str] = {
    key.argument: key.name for key in (*QUEUE, *EXCHANGE) if key.argument is not None
} | {
    "x-dead-letter-routing-key": "dead_letter: {exchange: …, routing_key: …}",
    "x-dead-letter-strategy": "dead_letter",
}
