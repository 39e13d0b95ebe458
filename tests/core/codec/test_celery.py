"""Our messages in Celery's hands: its request class in memory, its worker and its client on a broker."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqtask.amqp import frames
from amqtask.core import serialization
from amqtask.core.codec import decode, encode
from amqtask.core.message import Envelope, Message, Properties
from amqtask.core.result import (
    Record,
    decode_result,
    encode_result,
    exception_from_wire,
    exception_to_wire,
)
from tests.brokers import Broker
from tests.waiting import eventually

pika: Any = importlib.import_module("pika")
celery: Any = importlib.import_module("celery")
kombu_message: Any = importlib.import_module("kombu.message")
celery_request: Any = importlib.import_module("celery.worker.request")

ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"
ANY = serialization.accepted(("json", "msgpack", "pickle"))


@pytest.fixture(scope="module")
def app() -> Any:
    made = celery.Celery(
        "peer", broker="memory://", backend="cache+memory://", set_as_current=False
    )
    made.conf.accept_content = ["json", "msgpack", "pickle"]

    def add(self: Any, x: int, y: int = 0) -> dict[str, object]:
        request = self.request
        return {
            "sum": x + y,
            "id": request.id,
            "retries": request.retries,
            "timelimit": list(request.timelimit or ()),
            "reply_to": request.reply_to,
            "root_id": request.root_id,
            "headers": request.headers,
            "chord": request.chord,
            "callbacks": request.callbacks,
            "group": request.group,
        }

    def fail() -> None:
        raise KeyError("x")

    made.task(add, name="shop.add", bind=True)
    made.task(fail, name="shop.fail")
    made.finalize()
    return made


def as_celery_receives(envelope: Envelope) -> Any:
    """kombu's message for an envelope that went over the wire."""
    properties = frames.decode_properties(frames.encode_properties(envelope.properties))
    return kombu_message.Message(
        body=envelope.body,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=dict(properties.headers or {}),
        properties={
            "reply_to": properties.reply_to,
            "correlation_id": properties.correlation_id,
            "priority": properties.priority,
        },
        delivery_info={"exchange": "", "routing_key": "q"},
        accept=set(ANY),
    )


def executed(app: Any, message: Message) -> tuple[Any, Any]:
    """Celery's request of our message, and what its execution returned."""
    request = celery_request.Request(as_celery_receives(encode(message)), app=app, hostname="w@h")
    return request, request.execute()


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "cloudpickle"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_celery_runs_our_message(app: Any, serializer: str, compression: str | None) -> None:
    request, value = executed(
        app,
        Message(
            id=ID,
            task="shop.add",
            args=(2,),
            kwargs={"y": 3},
            retries=1,
            time_limit=0.5,
            group="g",
            reply_to="amqtask.reply.1",
            headers={"trace": 1.5},
            serializer=serializer,
            compression=compression,
        ),
    )

    assert value["sum"] == 5
    assert (value["id"], value["retries"], value["timelimit"]) == (ID, 1, [0.5, None])
    assert (value["reply_to"], value["group"]) == ("amqtask.reply.1", "g")
    assert value["headers"]["trace"] == 1.5
    assert request.correlation_id == ID
    assert request.time_limits == [0.5, None]


def test_celery_fills_in_the_defaults_we_left_out(app: Any) -> None:
    request, value = executed(app, Message(id=ID, task="shop.add", args=[1]))

    assert value == {
        "sum": 1,
        "id": ID,
        "retries": 0,
        "timelimit": [],
        "reply_to": None,
        "root_id": None,
        "headers": value["headers"],
        "chord": None,
        "callbacks": None,
        "group": None,
    }
    assert request.ignore_result is False
    assert request.time_limits == (None, None)
    assert (request.chord, request.errbacks, request.stamps, request.replaced_task_nesting) == (
        None,
        None,
        {},
        0,
    )


def test_a_failure_passes_through_our_compact_embed(app: Any) -> None:
    executed(app, Message(id="failing", task="shop.fail", ignore_result=False))

    result = app.AsyncResult("failing")
    assert result.state == "FAILURE"
    assert result.result.args == ("x",)


def test_celery_sees_times_and_flags(app: Any) -> None:
    message = Message(
        id=ID,
        task="shop.add",
        args=[1],
        eta="2030-01-01T00:00:00+00:00",
        expires="2030-01-02T00:00:00+00:00",
        ignore_result=True,
        shadow="other name",
        root_id="root",
        parent_id="parent",
        callbacks=[{"task": "shop.log", "args": [], "kwargs": {}, "options": {}}],
    )
    request = celery_request.Request(as_celery_receives(encode(message)), app=app)

    assert (request.eta.isoformat(), request.expires.isoformat()) == (message.eta, message.expires)
    assert (request.ignore_result, request.name, request.type) == (True, "other name", "shop.add")
    assert (request.root_id, request.parent_id) == ("root", "parent")
    assert request._payload[2]["callbacks"] == message.callbacks


# ---------------------------------------------------------------- on a broker

WORKER = """
    import celery
    from kombu import Exchange, Queue

    app = celery.Celery("peer", broker={url!r}, backend="rpc://")
    app.conf.update(
        task_queues=[Queue({queue!r}, Exchange(""), {queue!r})],
        task_default_queue={queue!r},
        accept_content=["json", "msgpack"],
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="shop.add")
    def add(x, y=0):
        return x + y

    @app.task(name="shop.fail")
    def fail():
        raise KeyError("x")
"""


@pytest.fixture
def worker(broker: Broker, queue_name: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker, solo pool, on the test's queue."""
    (tmp_path / "peer.py").write_text(
        textwrap.dedent(WORKER).format(url=broker.url, queue=queue_name)
    )
    command = [sys.executable, "-m", "celery", "-A", "peer", "worker", "-P", "solo", "-l", "INFO"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.kill()  # asked to stop, it takes ten seconds
            process.wait(20)
            with broker.channel() as channel:
                channel.exchange_delete(queue_name)  # Celery declares one for every queue


def pika_properties(properties: Properties) -> Any:
    return pika.BasicProperties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=dict(properties.headers or {}),
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=properties.expiration,
    )


def as_received(properties: Any, body: bytes) -> Envelope:
    return Envelope(
        body,
        Properties(
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            headers=properties.headers,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            priority=properties.priority,
        ),
    )


def take(channel: Any, queue: str) -> Envelope:
    """The next message of a queue, waited for."""

    def got() -> Envelope | None:
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        return None if properties is None else as_received(properties, body)

    message = eventually(got, timeout=30)
    assert message is not None
    return message


@pytest.mark.broker
def test_a_celery_worker_runs_our_messages(
    broker: Broker, queue_name: str, worker: subprocess.Popen[bytes]
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
        reply = channel.queue_declare("", exclusive=True).method.queue

        def run(message: Message) -> Record:
            envelope = encode(message, now=0.0)
            channel.basic_publish(
                "", queue_name, envelope.body, pika_properties(envelope.properties)
            )
            answer = take(channel, reply)
            return decode_result(answer.properties, answer.body)

        plain = run(Message(id="one", task="shop.add", args=[1, 2], reply_to=reply))
        packed = run(
            Message(
                id="two",
                task="shop.add",
                args=[1],
                kwargs={"y": 5},
                reply_to=reply,
                serializer="msgpack",
                compression="gzip",
            )
        )
        failed = run(Message(id="three", task="shop.fail", reply_to=reply))
        assert worker.poll() is None

    assert (plain.task_id, plain.status, plain.result) == ("one", "SUCCESS", 3)
    assert (packed.task_id, packed.status, packed.result) == ("two", "SUCCESS", 6)
    assert (failed.task_id, failed.status) == ("three", "FAILURE")
    error = exception_from_wire(failed.result)
    assert isinstance(error, KeyError)
    assert error.args == ("x",)
    assert "KeyError: 'x'" in (failed.traceback or "")


@pytest.fixture
def client(broker: Broker, queue_name: str) -> Iterator[Any]:
    """A Celery application that sends tasks and waits for their results."""
    made = celery.Celery("client", broker=broker.url, backend="rpc://", set_as_current=False)
    yield made
    made.backend.result_consumer.stop()
    with broker.channel() as channel:
        channel.queue_delete(made.thread_oid)
        channel.exchange_delete(queue_name)
    made.close()


@pytest.mark.broker
def test_a_celery_client_reads_our_results(broker: Broker, queue_name: str, client: Any) -> None:
    """The answers are made from what Celery sent, by our codec alone."""
    kombu: Any = importlib.import_module("kombu")
    client.conf.task_queues = [kombu.Queue(queue_name, kombu.Exchange(""), queue_name)]
    client.conf.task_default_queue = queue_name

    def answer(channel: Any, make: Callable[[Message], Record]) -> Message:
        message = decode(take(channel, queue_name))
        envelope = encode_result(make(message), correlation_id=message.correlation_id)
        channel.basic_publish(
            "", message.reply_to, envelope.body, pika_properties(envelope.properties)
        )
        return message

    good = client.send_task("shop.add", (1, 2), {"y": "é"}, expires=60)
    with broker.channel() as channel:
        message = answer(
            channel,
            lambda sent: Record(
                task_id=sent.id, status="SUCCESS", result=sum(map(int, map(str, sent.args)))
            ),
        )
        assert good.get(timeout=10) == 3

        bad = client.send_task("shop.fail")
        answer(
            channel,
            lambda sent: Record(
                task_id=sent.id, status="FAILURE", result=exception_to_wire(KeyError("x"))
            ),
        )
        with pytest.raises(KeyError, match="x"):
            bad.get(timeout=10)

    assert (message.task, message.kwargs, message.priority) == ("shop.add", {"y": "é"}, 0)
    assert message.expires
