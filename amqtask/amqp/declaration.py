"""A declaration as the call of a channel's method, which all client libraries name alike, and as words."""

from __future__ import annotations

from typing import Any

from amqtask.topology.plan import (
    BindExchange,
    BindQueue,
    Declaration,
    DeclareExchange,
    DeclareQueue,
)


def call_of(declaration: Declaration) -> tuple[str, dict[str, Any]]:
    """The method of a channel (pika's, blocking or not, or aiormq's) that carries it out, and its keyword arguments."""
    arguments: dict[str, Any] = {"arguments": dict(declaration.arguments)}
    match declaration:
        case DeclareExchange():
            return "exchange_declare", arguments | {
                "exchange": declaration.name,
                "exchange_type": declaration.type,
                "passive": declaration.passive,
                "durable": declaration.durable,
                "auto_delete": declaration.auto_delete,
                "internal": declaration.internal,
            }
        case DeclareQueue():
            return "queue_declare", arguments | {
                "queue": declaration.name,
                "passive": declaration.passive,
                "durable": declaration.durable,
                "exclusive": declaration.exclusive,
                "auto_delete": declaration.auto_delete,
            }
        case BindQueue():
            return "queue_bind", arguments | {
                "queue": declaration.queue,
                "exchange": declaration.exchange,
                "routing_key": declaration.routing_key,
            }
        case BindExchange():
            return "exchange_bind", arguments | {
                "destination": declaration.destination,
                "source": declaration.source,
                "routing_key": declaration.routing_key,
            }


def declaration_text(declaration: Declaration) -> str:
    """What is declared, in a few words."""
    match declaration:
        case DeclareExchange():
            return f"exchange {declaration.name} ({declaration.type})"
        case DeclareQueue():
            return (
                f"queue {declaration.name} ({declaration.arguments.get('x-queue-type', 'classic')})"
            )
        case BindQueue():
            return (
                f"binding {declaration.exchange} → queue {declaration.queue}"
                f"{_condition(declaration)}"
            )
        case BindExchange():
            return (
                f"binding {declaration.source} → exchange {declaration.destination}"
                f"{_condition(declaration)}"
            )


def _condition(binding: BindQueue | BindExchange) -> str:
    key = f", key {binding.routing_key}" if binding.routing_key else ""
    headers = ", ".join(f"{name}={value}" for name, value in binding.arguments.items())
    return key + (f", headers {headers}" if headers else "")
