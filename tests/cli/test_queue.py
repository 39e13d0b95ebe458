"""``amqtask queue ls|purge``."""

from __future__ import annotations

import pytest

from tests.brokers import Broker
from tests.cli.running import Folder, Shop

pytestmark = pytest.mark.process


def test_ls_without_the_management_api(shop: Shop, broker: Broker) -> None:
    before = shop.run("-A", "shop.tasks", "queue", "ls")
    shop.run("topology", "apply", "shop.yaml")
    with broker.channel() as channel:
        for _ in range(12):
            channel.basic_publish(shop.exchange, "email.x", b"")
        channel.basic_consume(shop.images, lambda *_: None)
        found = shop.run("queue", "ls", "-f", "shop.yaml")

    assert before.returncode == 0
    assert before.stdout.count("missing") == 4
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()]
    assert rows == [
        ["queue", "type", "messages", "consumers"],
        [shop.email, "classic", "12", "0"],
        [shop.images, "classic", "0", "1"],
        [f"{shop.email}.dead", "classic", "0", "0"],
        [f"{shop.images}.dead", "classic", "0", "0"],
    ]


def test_ls_of_named_queues(shop: Shop, broker: Broker, queue_name: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
        found = shop.run("queue", "ls", queue_name)
        missing = shop.run("queue", "ls", queue_name, "nobody")

    assert found.returncode == 0
    assert found.stdout.splitlines()[1].split() == [queue_name, "-", "0", "0"]
    assert missing.returncode == 1
    assert missing.stderr == "There is no queue 'nobody' on the broker.\n"
    assert "missing" in missing.stdout


def test_ls_on_a_terminal(shop: Shop) -> None:
    code, shown = shop.run_on_terminal("-A", "shop.tasks", "queue", "ls")

    assert code == 0
    assert shop.email in shown


def test_purge_asks_first(shop: Shop, broker: Broker, queue_name: str) -> None:
    def fill() -> None:
        with broker.channel() as channel:
            channel.confirm_delivery()
            channel.queue_declare(queue_name, durable=True)
            for _ in range(3):
                channel.basic_publish("", queue_name, b"")

    fill()
    nobody = shop.run("queue", "purge", queue_name)
    no, _ = shop.run_on_terminal("queue", "purge", queue_name, typed="n\n")
    yes, shown = shop.run_on_terminal("queue", "purge", queue_name, typed="y\n")
    fill()
    told = shop.run("queue", "purge", queue_name, "--yes")

    assert nobody.returncode == 1
    assert "give --yes" in nobody.stderr
    assert (no, yes) == (1, 0)
    assert f"Deleted 3 messages of queue {queue_name}." in shown
    assert (told.returncode, told.stdout) == (0, f"Deleted 3 messages of queue {queue_name}.\n")


def test_purge_of_a_queue_that_is_not_there(shop: Shop) -> None:
    found = shop.run("queue", "purge", "nobody", "--yes")

    assert found.returncode == 1
    assert found.stderr == "There is no queue 'nobody' on the broker.\n"


def test_without_a_broker(folder: Folder) -> None:
    for command in (["ls", "a"], ["purge", "a", "-y"]):
        found = folder.run("queue", *command)

        assert found.returncode == 1
        assert found.stderr.startswith("No RabbitMQ answers at 127.0.0.1:1 ")
