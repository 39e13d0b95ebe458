"""What ``amqtask doctor`` finds, on a real broker and as pure judgements."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from amqtask import App, diagnosis
from amqtask.amqp import declare
from amqtask.amqp.address import Address
from amqtask.amqp.management import Management
from amqtask.amqp.session import Session
from amqtask.errors import OperationRefused
from amqtask.findings import Finding, Status
from amqtask.settings import Settings
from amqtask.topology import plan
from amqtask.topology.dropped import DROPPED
from amqtask.topology.model import Binding, Queue, Topology
from amqtask.topology.parse import parse
from tests.brokers import Broker, limited_user, own_vhost
from tests.waiting import eventually

NOW = datetime(2026, 1, 1, 12, 0, 0, 500_000, UTC)


@pytest.fixture
def session(broker: Broker) -> Iterator[Session]:
    with Session((Address.parse(broker.url),), name="test") as session:
        yield session


def test_this_machine() -> None:
    assert diagnosis.check_python().status is Status.OK
    assert diagnosis.check_client().status is Status.OK


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (NOW.replace(microsecond=0), Status.OK),
        (NOW - timedelta(seconds=3), Status.OK),
        (NOW + timedelta(seconds=3), Status.OK),
        (NOW - timedelta(seconds=6), Status.WARN),
        (NOW + timedelta(hours=1), Status.WARN),
    ],
)
def test_clocks(told: datetime, status: Status) -> None:
    finding = diagnosis.judge_clock(told, NOW, NOW + timedelta(milliseconds=20))

    assert finding.status is status
    if status is Status.WARN:
        assert ("behind" if told < NOW else "ahead of") in finding.text


def test_the_brokers_time(session: Session) -> None:
    told = diagnosis.broker_time(session)

    assert told is not None
    assert abs((datetime.now(UTC) - told).total_seconds()) < 5
    assert diagnosis.check_clock(session).status is Status.OK


def test_time_limits_above_the_brokers() -> None:
    app = App("shop", topology=parse("{version: 1, queues: {default: {}}}", "t.yaml"))

    @app.task(name="a.slow", time_limit=7200)
    def slow() -> None: ...

    (found,) = diagnosis.check_time_limits(app, (3, 10, 8))

    assert found.status is Status.WARN
    assert "'a.slow' may run 2h" in found.text
    assert "rabbitmq.conf" in found.remedy
    assert diagnosis.check_time_limits(App("empty"), (3, 10, 8))[0].status is Status.OK


def test_a_broker_that_answers(broker: Broker) -> None:
    session, findings = diagnosis.check_addresses([Address.parse(broker.url)])

    assert session is not None
    with session:
        assert {f.status for f in findings} == {Status.OK}
        assert diagnosis.check_version(session, None)[0].status is Status.OK
        assert diagnosis.check_permissions(session)[0].status is Status.OK


def test_one_broker_of_two_is_a_warning(broker: Broker) -> None:
    nowhere = Address(host="127.0.0.1", port=1, password="secret-word")

    session, findings = diagnosis.check_addresses([nowhere, Address.parse(broker.url)])
    nobody, failed = diagnosis.check_addresses([nowhere])

    assert session is not None
    session.__exit__(None, None, None)
    assert [f.status for f in findings] == [Status.WARN, Status.OK, Status.OK]
    assert nobody is None
    assert [f.status for f in failed] == [Status.FAIL]
    assert "secret-word" not in str(failed + findings)


def test_the_topology_is_compared(session: Session, queue_name: str) -> None:
    topology = Topology(queues={queue_name: Queue(name=queue_name, type="classic", max_length=5)})
    other = Topology(queues={queue_name: Queue(name=queue_name, type="classic", max_length=6)})

    missing = diagnosis.check_topology(session, topology)
    for declared in declare.carry_out(session, topology):
        assert declared.created or "amqtask.dropped" in declared.text  # which others share
    there = diagnosis.check_topology(session, topology)
    differs = diagnosis.check_topology(session, other)

    assert [f.status for f in missing if "amqtask.dropped" not in f.text] == [Status.FAIL]
    assert all("is not on the broker" in f.text for f in missing)
    assert [f.status for f in there] == [Status.OK]
    assert [f.status for f in differs] == [Status.FAIL]
    for word in (queue_name, "x-max-length", "5", "6"):
        assert word in differs[0].text


def test_what_a_version_lacks(session: Session) -> None:
    topology = Topology(
        queues={
            "q": Queue(name="q", arguments={"x-delayed-retry-type": "all"}, consumer_timeout=60)
        }
    )

    found = diagnosis.check_version(session, topology)[1:]

    expected = [Status.WARN] * 2 if session.server.release < (3, 12, 0) else []
    assert [f.status for f in found] == expected


def test_permissions_that_are_missing(broker: Broker) -> None:
    user, vhost = f"doctor-{uuid.uuid4().hex[:8]}", broker.vhost
    broker.api("PUT", f"/api/users/{user}", {"password": "secret-word", "tags": ""})
    address = Address.parse(broker.url)
    limited = Address(
        host=address.host, port=address.port, user=user, password="secret-word", vhost=vhost
    )
    grants = f"/api/permissions/{quote(vhost, safe='')}/{user}"
    try:
        for granted, missing in [
            (("^$", ".*", ".*"), "no configure permission"),
            ((".*", "^$", ".*"), "no write permission"),
            ((".*", ".*", "^$"), "no read permission"),
        ]:
            broker.api(
                "PUT", grants, dict(zip(("configure", "write", "read"), granted, strict=True))
            )
            with Session((limited,), name="test") as session:
                findings = diagnosis.check_permissions(session)

            assert [f.status for f in findings] == [Status.FAIL]
            assert missing in findings[0].text
            assert "rabbitmqctl set_permissions" in findings[0].remedy
    finally:
        broker.api("DELETE", f"/api/users/{user}")


@pytest.fixture
def elsewhere(broker: Broker) -> Iterator[Broker]:
    """A virtual host of the test's own, in which there is no stream of verdicts."""
    with own_vhost(broker) as own:
        assert own is not broker, "this test needs the management API"
        yield own


def verdicts(broker: Broker, **settings: float) -> Finding:
    with Session((Address.parse(broker.url),), name="test") as session:
        (found,) = diagnosis.check_verdicts(session, Settings.parse(settings))
    return found


def test_the_stream_of_verdicts(elsewhere: Broker) -> None:
    warnings: list[str] = []
    none = verdicts(elsewhere)
    with Session((Address.parse(elsewhere.url),), name="test") as session:
        made = [
            declare.carry_out_verdicts(session, Settings.parse({"verdict_max_age": age}), warn)
            for age, warn in ((3600.0, warnings.append), (3600.0, warnings.append))
        ]
        told: list[str] = []
        declare.carry_out_verdicts(session, Settings(), told.append)
    there = verdicts(elsewhere, verdict_max_age=3600.0)
    differs = verdicts(elsewhere)

    assert (none.status, made, warnings) == (Status.OK, [True, False], [])
    assert "yet" in none.text
    assert (there.status, differs.status) == (Status.OK, Status.WARN)
    for text in (differs.text, *told):
        assert "x-max-age" in text
    assert len(told) == 1


def test_a_queue_in_the_place_of_the_stream_of_verdicts(elsewhere: Broker) -> None:
    with elsewhere.channel() as channel:
        channel.queue_declare("amqtask.verdicts", durable=True)

    found = verdicts(elsewhere)

    assert found.status is Status.FAIL
    assert "is no stream" in found.text


def test_a_stream_of_verdicts_that_may_not_be_declared(elsewhere: Broker) -> None:
    with limited_user(elsewhere, configure="^(?!amqtask.verdicts)") as user:
        none = verdicts(user)
        with (
            Session((Address.parse(user.url),), name="test") as session,
            pytest.raises(OperationRefused, match="may not declare"),
        ):
            declare.carry_out_verdicts(session, Settings())
        with Session((Address.parse(elsewhere.url),), name="test") as session:
            declare.carry_out_verdicts(session, Settings())
        there = verdicts(user)

    assert (none.status, there.status) == (Status.OK, Status.OK)
    assert "may not declare it" in there.text


def test_missing_bindings() -> None:
    topology = parse(
        """
        version: 1
        exchanges: {t: {type: topic}, f: {type: fanout, bindings: [{exchange: t, routing_key: x}]}}
        queues: {q: {dead_letter: false, bindings: [{exchange: t, routing_key: "a.#"}]}}
        """,
        "t.yaml",
    )
    live = [
        {"destination_type": "queue", "destination": "q", "source": "t", "routing_key": "a.#", "arguments": {}},
        {"destination_type": "queue", "destination": "amqtask.dropped", "source": "amqtask.dropped", "routing_key": "amqtask.plan", "arguments": {}},
    ]  # fmt: skip

    assert [f.text for f in diagnosis.missing_bindings(topology, live)] == [
        "binding t → exchange f, key x is not on the broker"
    ]
    assert len(diagnosis.missing_bindings(topology, [])) == 3


def test_the_management_api(session: Session, broker: Broker, queue_name: str) -> None:
    topology = Topology(
        queues={
            queue_name: Queue(
                name=queue_name, type="classic", bindings=(Binding("amq.topic", "x.#"),)
            )
        }
    )
    for _ in declare.carry_out(session, topology):
        pass
    api = Management.of(session.address, broker.management_url)
    nowhere = Management.of(session.address, "http://127.0.0.1:1")

    assert [f.status for f in diagnosis.check_management(nowhere, session, topology)] == [Status.OK]
    assert "optional" in diagnosis.check_management(nowhere, session, topology)[0].text
    if broker.management_url is not None:
        assert "all bindings in place" in diagnosis.check_management(api, session, topology)[0].text


def test_dropped_tasks_of_which_no_worker_tells(elsewhere: Broker) -> None:
    topology = Topology(queues={"q": Queue(name="q", type="classic", dead_letter=True)})
    with Session((Address.parse(elsewhere.url),), name="test") as session:
        session.apply(plan.declarations(topology))
        assert diagnosis.check_dead_letters(session, topology)[0].status is Status.OK
        session.publish("", DROPPED, b"dropped")
        eventually(lambda: getattr(session.queue(DROPPED), "messages", 0) == 1)
        (finding,) = diagnosis.check_dead_letters(session, topology)

    assert finding.status is Status.WARN
    assert finding.text == "1 dropped task in 'amqtask.dropped', and no worker tells whoever waits for them"  # fmt: skip
