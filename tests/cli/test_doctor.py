"""``amqtask doctor``."""

from __future__ import annotations

import pytest

from tests.brokers import Broker
from tests.cli.running import Folder, Shop

pytestmark = pytest.mark.process


def _lines(text: str) -> dict[str, str]:
    """The worst status of each check."""
    order = ["ok", "warn", "FAIL"]
    found: dict[str, str] = {}
    for line in text.splitlines():
        status, check = line.split()[:2]
        found[check] = max(found.get(check, "ok"), status, key=order.index)
    return found


def test_a_healthy_pair(shop: Shop) -> None:
    shop.run("topology", "apply", "shop.yaml")

    found = shop.run("-A", "shop.tasks", "doctor")

    assert found.returncode == 0, found.stdout
    checks = _lines(found.stdout)
    assert {
        "python",
        "pika",
        "app",
        "broker",
        "login",
        "version",
        "permissions",
        "topology",
        "verdicts",
        "clock",
    } <= set(checks)
    assert "FAIL" not in checks.values()


def test_dead_letters_are_told_and_no_failure(shop: Shop, broker: Broker) -> None:
    shop.run("topology", "apply", "shop.yaml")
    with broker.channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish("", f"{shop.email}.dead", b"")

    found = shop.run("-A", "shop.tasks", "doctor")

    assert found.returncode == 0, found.stdout
    assert _lines(found.stdout)["dead"] == "warn"
    assert f"'{shop.email}.dead' holds 1 dead letter: see amqtask dead list" in found.stdout
    assert f"{shop.images}.dead" not in found.stdout


def test_a_topology_that_is_not_there(shop: Shop) -> None:
    found = shop.run("-A", "shop.tasks", "doctor")

    assert found.returncode == 1
    assert _lines(found.stdout)["topology"] == "FAIL"
    assert "amqtask topology apply" in found.stdout
    assert "checks failed" in found.stderr


def test_no_broker(folder: Folder) -> None:
    found = folder.run("doctor")

    assert found.returncode == 1
    assert _lines(found.stdout)["broker"] == "FAIL"
    assert "127.0.0.1:1" in found.stdout
    assert "secret-word" not in found.stdout + found.stderr


def test_an_app_that_cannot_be_imported_does_not_stop_the_rest(shop: Shop) -> None:
    shop.write("broken.py", "1 / 0\n")

    found = shop.run("-A", "broken", "doctor")

    checks = _lines(found.stdout)
    assert found.returncode == 1
    assert checks["app"] == "FAIL"
    assert checks["permissions"] == "ok"


def test_a_topology_with_mistakes(shop: Shop) -> None:
    shop.write("bad.yaml", "version: 1\nqueues: {a: {type: quorumm}}\n")

    found = shop.run("doctor", "-f", "bad.yaml")

    assert found.returncode == 1
    assert _lines(found.stdout)["topology"] == "FAIL"
    assert "bad.yaml:2:" in found.stdout


def test_colours(shop: Shop) -> None:
    _, coloured = shop.run_on_terminal("doctor")
    _, plain = shop.run_on_terminal("doctor", NO_COLOR="1")

    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain
