"""A peer that plays the worker: it answers the tasks of a queue as a test says, over plain pika."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pika

from amqtask.core import codec
from amqtask.core.message import Envelope, Message, Properties
from amqtask.core.result import Record, encode_result
from tests.brokers import Broker

Answer = Callable[[Message], Sequence[Record]]


def done(value: object) -> Answer:
    """Answer every task with this value."""
    return lambda message: [Record(task_id=message.id, status="SUCCESS", result=value)]


def total(message: Message) -> list[Record]:
    """Answer with the sum of the arguments."""
    return [Record(task_id=message.id, status="SUCCESS", result=sum(message.args))]  # type: ignore[arg-type]  # numbers


@contextmanager
def answering(broker: Broker, queue: str, answer: Answer) -> Iterator[list[Message]]:
    """Declare ``queue`` and answer its tasks until the block ends. Gives the messages seen so far."""
    seen: list[Message] = []
    connection = broker.connect()
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)

    def answer_one(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        envelope = Envelope(body, from_pika(properties))
        message = codec.decode(envelope)
        seen.append(message)
        if message.reply_to:
            for record in answer(message):
                publish_reply(channel, message.reply_to, record)
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=100)
    channel.basic_consume(queue, answer_one)
    thread = threading.Thread(target=channel.start_consuming)
    thread.start()
    try:
        yield seen
    finally:
        connection.add_callback_threadsafe(channel.stop_consuming)
        thread.join()
        connection.close()


def publish_reply(channel: Any, reply_to: str, record: Record) -> None:
    """Send one result record."""
    envelope = encode_result(record)
    properties = envelope.properties
    channel.basic_publish(
        "",
        reply_to,
        envelope.body,
        pika.BasicProperties(  # type: ignore[no-untyped-call]  # the stubs leave its constructor out
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            correlation_id=properties.correlation_id,
            delivery_mode=2,
        ),
    )


def from_pika(properties: Any) -> Properties:
    """pika's properties as ours."""
    return Properties(**{name: getattr(properties, name) for name in Properties.__struct_fields__})
