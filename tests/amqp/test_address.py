"""Broker URLs: what they mean, what is refused, and that a password is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp.address import Address, parse_addresses, redact
from amqtask.errors import ConfigurationError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://", Address()),
        ("amqp://rabbit", Address(host="rabbit")),
        ("amqp://rabbit/", Address(host="rabbit")),
        ("amqp://rabbit//", Address(host="rabbit")),
        ("amqp://rabbit/%2F", Address(host="rabbit")),
        ("amqp://rabbit/shop", Address(host="rabbit", vhost="shop")),
        ("amqp://rabbit//shop", Address(host="rabbit", vhost="/shop")),
        ("amqp://rabbit/a%2Fb%20c", Address(host="rabbit", vhost="a/b c")),
        ("pyamqp://u:p@rabbit:1/v", Address(host="rabbit", port=1, user="u", password="p", vhost="v")),
        ("AMQP://u@rabbit", Address(host="rabbit", user="u")),
        ("amqp://u:@rabbit", Address(host="rabbit", user="u", password="")),
        ("amqp://u%40x:p%3A%2F%23@rabbit", Address(host="rabbit", user="u@x", password="p:/#")),
        ("amqp://[::1]:5673/v", Address(host="::1", port=5673, vhost="v")),
        ("amqps://rabbit", Address(host="rabbit", port=5671, tls=True)),
        (
            "amqps://rabbit?verify=verify_none&cacertfile=/ca.pem&certfile=/c.pem&keyfile=/k.pem",
            Address(
                host="rabbit", port=5671, tls=True, verify=False,
                cacertfile="/ca.pem", certfile="/c.pem", keyfile="/k.pem",
            ),
        ),
        (
            "amqps://rabbit?server_name_indication=broker.example",
            Address(host="rabbit", port=5671, tls=True, server_name="broker.example"),
        ),
        (
            "amqp://rabbit?heartbeat=10&connection_timeout=2500",
            Address(host="rabbit", heartbeat=10, connection_timeout=2.5),
        ),
    ],
)  # fmt: skip
def test_a_url_means(url: str, expected: Address) -> None:
    assert expected == Address.parse(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must start with"),
        ("rabbit", "must start with"),
        (f"user:{SECRET}@rabbit", "must start with"),
        (f"redis://user:{SECRET}@rabbit", "must start with"),
        (f"amqp://user:{SECRET}/x@rabbit", "valid host and port"),
        (f"amqp://user:{SECRET}#x@rabbit", "valid host and port"),
        (f"amqp://user:{SECRET}@rabbit:none", "valid host and port"),
        (f"amqp://user:{SECRET}@rabbit:0", "valid host and port"),
        (f"amqp://user:{SECRET}@rabbit:70000", "valid host and port"),
        (f"amqp://user:{SECRET}@a,b", "valid host and port"),
        (f"amqp://user:{SECRET}@[::1", "valid host and port"),
        (f"amqp://user:{SECRET}%ff@rabbit", "not UTF-8"),
        (f"amqp://user:{SECRET}@rabbit?hartbeat=1", "did you mean 'heartbeat'"),
        (f"amqp://user:{SECRET}@rabbit?colour=1", "known are heartbeat"),
        (f"amqp://user:{SECRET}@rabbit?heartbeat=soon", "whole seconds"),
        (f"amqp://user:{SECRET}@rabbit?heartbeat=-1", "whole seconds"),
        (f"amqps://user:{SECRET}@rabbit?verify=maybe", "verify_peer or verify_none"),
        (f"amqp://user:{SECRET}@rabbit?cacertfile=/ca.pem", "needs amqps"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(url)

    assert says in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_text_forms_hide_the_password() -> None:
    address = Address.parse(f"amqps://us%20er:{SECRET}@rabbit:5673/a%2Fb")

    assert str(address) == "amqps://us%20er:***@rabbit:5673/a%2Fb"
    assert SECRET not in repr(address)
    assert str(Address(host="::1")) == "amqp://guest:***@[::1]:5672//"


def test_a_list_of_urls_keeps_its_order() -> None:
    one, two = Address(host="one"), Address(host="two", password="a;b")

    assert (one, two) == parse_addresses("amqp://one; amqp://guest:a;b@two;")
    assert (one, two) == parse_addresses(["amqp://one", "amqp://guest:a;b@two"])


@pytest.mark.parametrize("nothing", ["", " ; ", []])
def test_no_url_is_an_error(nothing: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="No broker URL"):
        parse_addresses(nothing)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://rabbit:5672//", "amqp://rabbit:5672//"),
        ("amqp://user@rabbit", "amqp://user@rabbit"),
        (f"amqp://user://{SECRET}@rabbit", "amqp://user:***@rabbit"),
        (f"amqp://user:{SECRET}@rabbit:1/v", "amqp://user:***@rabbit:1/v"),
        (f"amqp://u:{SECRET}@a;amqp://u:{SECRET}@b", "amqp://u:***@a;amqp://u:***@b"),
        (f"user:{SECRET}@rabbit", "user:***@rabbit"),
    ],
)
def test_redact(url: str, expected: str) -> None:
    assert expected == redact(url)


@given(password=st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_no_password_survives_redaction(password: str) -> None:
    marked = f"<{password}>"

    assert marked not in redact(f"amqp://user:{marked}@rabbit:5672//")


@given(
    st.builds(
        Address,
        user=st.text(st.characters(codec="utf-8"), min_size=1),
        password=st.just("***"),
        vhost=st.text(st.characters(codec="utf-8"), min_size=1),
        port=st.integers(1, 65535),
    )
)
def test_the_text_form_parses_back(address: Address) -> None:
    assert address == Address.parse(str(address))


def test_tls_context_follows_the_options() -> None:
    strict = Address(tls=True).ssl_context()
    lax = Address(tls=True, verify=False).ssl_context()

    assert Address().ssl_context() is None
    assert strict is not None
    assert strict.check_hostname
    assert lax is not None
    assert not lax.check_hostname


def test_an_unreadable_certificate_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Address(tls=True, cacertfile="/nonexistent/ca.pem").ssl_context()
