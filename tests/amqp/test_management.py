"""The management API, as checks read it."""

from __future__ import annotations

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.management import Management, NoAnswer
from amqtask.errors import ConfigurationError
from tests.brokers import Broker


def test_where_it_is() -> None:
    assert Management.of(Address(host="h")).url == "http://h:15672"
    assert Management.of(Address(host="::1")).url == "http://[::1]:15672"
    assert Management.of(Address(host="h", tls=True)).url == "https://h:15671"
    assert Management.of(Address(host="h"), "https://m/").url == "https://m"


@pytest.mark.parametrize("url", ["h:15672", "file:///etc/passwd", "http://", "http://u:p@h"])
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be like http://host:15672"):
        Management.of(Address(), url)


def test_answers(broker: Broker) -> None:
    if broker.management_url is None:
        return  # this broker has none, which is what the next test is about
    address = Address.parse(broker.url)
    api = Management.of(address, broker.management_url)

    assert api.get("overview")["rabbitmq_version"]
    with pytest.raises(NoAnswer, match="404"):
        api.get("queues", address.vhost, "no/such queue")
    with pytest.raises(NoAnswer, match="401"):
        Management(api.url, "nobody", "secret").get("overview")


def test_no_answer() -> None:
    with pytest.raises(NoAnswer, match="refused"):
        Management.of(Address(), "http://127.0.0.1:1").get("overview")
