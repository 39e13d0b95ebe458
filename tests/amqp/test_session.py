"""A short conversation with a real broker: every answer is a value or one of our errors, within its time."""

from __future__ import annotations

import dataclasses
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pika.frame
import pika.spec
import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.session import QueueState, Session
from amqtask.errors import ConnectFailed, ConnectionLost, LoginRefused, OperationRefused
from amqtask.testing import Proxy
from amqtask.topology.plan import BindExchange, BindQueue, DeclareExchange, DeclareQueue
from tests.acceptance.nodes import background
from tests.brokers import Broker, OwnBroker

NOBODY = Address(host="127.0.0.1", port=1, password="s3cret")


@pytest.fixture
def session(broker: Broker) -> Iterator[Session]:
    with Session((Address.parse(broker.url),), name="test session") as session:
        yield session


def test_the_broker_says_who_it_is(session: Session, broker: Broker) -> None:
    assert session.server.product == "RabbitMQ"
    assert session.server.release == broker.version
    assert session.server.cluster_name


def test_the_first_broker_that_answers_is_taken(broker: Broker) -> None:
    address = Address.parse(broker.url)
    with Session((NOBODY, address)) as session:
        assert session.address == address


def test_nobody_there_is_told_without_the_password() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1\b") as caught, Session((NOBODY,)):
        pass
    assert "s3cret" not in str(caught.value)


def test_a_host_that_accepts_and_says_nothing_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = Address(host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(ConnectFailed, match=str(silent.port)), Session((silent,), timeout=0.3):
            pass


def test_a_refused_login_is_told_without_the_password(broker: Broker) -> None:
    wrong = dataclasses.replace(Address.parse(broker.url), password="s3cret")
    with pytest.raises(LoginRefused, match="check user and password") as caught, Session((wrong,)):
        pass
    assert "s3cret" not in str(caught.value)


def test_a_virtual_host_that_is_not_there_is_a_refused_login(broker: Broker) -> None:
    wrong = dataclasses.replace(Address.parse(broker.url), vhost="no-such-vhost")
    with pytest.raises(LoginRefused, match="'no-such-vhost'"), Session((wrong,)):
        pass


SPEC: Any = pika.spec.Connection  # pika leaves its methods without types


def frame(method: Any) -> bytes:
    return bytes(pika.frame.Method(0, method).marshal())


GREETING = frame(SPEC.Start(0, 9, {}, "PLAIN", "en_US"))
TUNE = frame(SPEC.Tune(2047, 131072, 60))


def answer(listener: socket.socket, *frames: bytes) -> None:
    """Answer whatever a client says with one frame each, then end the connection."""
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(5)
        for each in frames:
            peer.recv(65536)
            peer.sendall(each)
        peer.recv(65536)


def closes(code: int, text: str) -> bytes:
    return frame(SPEC.Close(code, text, 0, 0))


@pytest.mark.parametrize(
    ("frames", "refused", "says"),
    [
        ([GREETING], False, "cut during the login"),
        ([GREETING, TUNE], False, "cut during the login"),
        ([GREETING, closes(403, "ACCESS_REFUSED - Login was refused")], True, "user and password"),
        ([GREETING, closes(320, "CONNECTION_FORCED - going down")], False, "320 CONNECTION_FORCED"),
        ([GREETING, TUNE + closes(541, "INTERNAL_ERROR - vhost '/' is down")], False, "is down"),
        ([GREETING, TUNE + closes(530, "NOT_ALLOWED - vhost not found")], True, "virtual host '/'"),
    ],
    ids=["cut", "cut late", "403", "320", "541", "530"],
)
def test_only_a_login_that_was_refused_is_a_refused_login(
    frames: list[bytes], refused: bool, says: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener, *frames))
        thread.start()
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        with pytest.raises(ConnectFailed) as caught:
            Session((address,), timeout=5).open()
        thread.join()
    assert isinstance(caught.value, LoginRefused) is refused
    assert says in str(caught.value)


def test_the_urls_own_timeout_wins() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = Address(host="127.0.0.1", port=server.getsockname()[1], connection_timeout=0.3)
        with pytest.raises(ConnectFailed), Session((silent,), timeout=60):
            pass


def test_all_kinds_of_declarations_are_carried_out(session: Session, queue_name: str) -> None:
    one, two = f"{queue_name}.one", f"{queue_name}.two"
    declarations = (
        DeclareExchange(one, "topic"),
        DeclareExchange(two, "fanout"),
        DeclareQueue(queue_name, arguments={"x-expires": 60_000}),
        BindExchange(two, one, "email.#"),
        BindQueue(queue_name, two),
    )
    told: list[object] = []
    try:
        session.apply(declarations, told.append)
        session.publish(one, "email.send", b"through")
        taken = session.take(queue_name)
    finally:
        session.delete_exchange(one)
        session.delete_exchange(two)

    assert told == list(declarations)
    assert taken is not None
    assert taken.body == b"through"


def test_a_refusal_is_an_error_and_the_session_goes_on(session: Session, queue_name: str) -> None:
    session.declare(DeclareQueue(queue_name, arguments={"x-max-length": 5}))
    with pytest.raises(OperationRefused, match="x-max-length") as caught:
        session.declare(DeclareQueue(queue_name))

    assert caught.value.code == 406
    assert session.queue(queue_name) == QueueState(queue_name, 0, 0)


def test_what_is_not_there(session: Session) -> None:
    name = f"no-such-{uuid.uuid4().hex}"
    assert session.queue(name) is None
    assert not session.exchange_exists(name)
    with pytest.raises(OperationRefused) as caught:
        session.publish(name, "", b"")
    assert caught.value.code == 404


def test_messages_are_counted_taken_and_purged(session: Session, queue_name: str) -> None:
    session.declare(DeclareQueue(queue_name))
    for number in range(5):
        session.publish("", queue_name, b"%d" % number)
    taken = session.take(queue_name)

    assert taken is not None
    assert taken.body == b"0"
    assert session.queue(queue_name) == QueueState(queue_name, 4, 0)
    assert session.purge(queue_name) == 4
    assert session.take(queue_name) is None
    assert session.delete_queue(queue_name) == 0
    assert session.queue(queue_name) is None


def test_exchanges_are_found_and_deleted(session: Session) -> None:
    name = f"e-{uuid.uuid4().hex}"
    session.declare(DeclareExchange(name, "headers"))

    assert session.exchange_exists(name, "headers")
    session.delete_exchange(name)
    assert not session.exchange_exists(name)


def test_a_closed_connection_is_an_error_and_leaving_is_quiet(broker: Broker) -> None:
    name = f"session-{uuid.uuid4().hex[:8]}"
    with Session((Address.parse(broker.url),), name=name) as session:
        broker.close_connection(name)
        with pytest.raises(ConnectionLost, match="CONNECTION_FORCED"):
            session.queue("q")
        with pytest.raises(ConnectionLost, match="closed"):
            session.queue("q")


def test_a_session_with_patience_outlives_its_connection(broker: Broker, queue_name: str) -> None:
    with (
        Proxy.before(broker.url) as proxy,
        Session((Address.parse(proxy.url),), patience=20) as session,
    ):
        for number in range(1, 4):
            proxy.cut()
            session.declare(DeclareQueue(queue_name))
            proxy.cut()
            assert session.queue(queue_name) == QueueState(queue_name, number - 1, 0)
            session.publish("", queue_name, b"not tried twice")
        proxy.cut()
        with pytest.raises(ConnectionLost):
            session.purge(queue_name)
        assert session.queue(queue_name) == QueueState(queue_name, 3, 0)


def test_a_session_with_patience_outlives_a_silent_network(broker: Broker, queue_name: str) -> None:
    with (
        Proxy.before(broker.url) as proxy,
        Session((Address.parse(proxy.url),), timeout=1, patience=2) as session,
    ):
        proxy.freeze(*(link.number for link in proxy.links))  # new ones are as before
        session.declare(DeclareQueue(queue_name))
        proxy.freeze()
        with pytest.raises(ConnectionLost, match="no answer within 1 s"):
            session.queue(queue_name)


def test_a_login_that_is_cut_is_not_a_login_that_is_refused() -> None:
    hello = bytes.fromhex("01 0000 0000 001a 000a000a 00 09 00000000 00000005") + b"PLAIN"
    hello += bytes.fromhex("00000005") + b"en_US" + b"\xce"
    hello = hello[:3] + (len(hello) - 8).to_bytes(4, "big") + hello[7:]

    def cut_logins(listener: socket.socket, logins: list[bytes]) -> None:
        for _ in range(4):
            client, _ = listener.accept()
            with client:
                client.recv(100)
                client.sendall(hello)
                logins.append(client.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = Address(host="127.0.0.1", port=listener.getsockname()[1])
        logins: list[bytes] = []
        with background(lambda: cut_logins(listener, logins)):
            with (
                pytest.raises(ConnectFailed, match="cut during the login") as once,
                Session((here,)),
            ):
                pass
            with pytest.raises(ConnectFailed) as again, Session((here,), patience=5):
                pass

    assert len(logins) == 4, "one without patience, three with"
    assert not isinstance(once.value, LoginRefused)
    assert not isinstance(again.value, LoginRefused)


def test_a_broker_that_stops_answering_has_a_deadline(fresh_broker: OwnBroker) -> None:
    with Session((Address.parse(fresh_broker.url),), timeout=1) as session:
        session.queue("q")
        fresh_broker.pause()
        try:
            with pytest.raises(ConnectionLost, match="no answer within 1 s"):
                session.queue("q")
        finally:
            fresh_broker.resume()


def test_leaving_a_broker_that_stops_answering_has_a_deadline(fresh_broker: OwnBroker) -> None:
    try:
        with Session((Address.parse(fresh_broker.url),), timeout=1) as session:
            session.queue("q")
            fresh_broker.pause()
    finally:
        fresh_broker.resume()


def test_what_ends_the_whole_connection_over_a_request_is_a_refusal(
    session: Session, queue_name: str, broker: Broker
) -> None:
    with pytest.raises(OperationRefused, match="exchange type") as caught:
        session.declare(DeclareExchange(queue_name, "no-such-type"))
    # 3.10 closes the connection over it, 4.3 the channel
    assert caught.value.code == (406 if broker.version >= (4, 3) else 503)
