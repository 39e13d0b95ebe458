"""Where a broker is and how to log in: the URL, parsed, and shown without its password.

``amqp://user:password@host:port/vhost?heartbeat=10``, after RabbitMQ's URI specification and its query parameters.
"""

from __future__ import annotations

import random
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from amqtask.errors import ConfigurationError
from amqtask.names import did_you_mean

_SCHEMES = {"amqp": False, "pyamqp": False, "amqps": True}  # pyamqp: as Celery users write it
_ENCODE_HINT = "Percent-encode characters like / # ? @ : in user, password and vhost."


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Address:
    """One broker address. ``str`` and ``repr`` never show the password.

    Attributes:
        host: name or IP address, an IPv6 one without brackets.
        port: TCP port.
        user: login name.
        password: login password.
        vhost: virtual host.
        tls: speak TLS.
        heartbeat: seconds, from the URL; ``None`` leaves it to the settings.
        connection_timeout: seconds (milliseconds in the URL, as RabbitMQ has it); ``None`` leaves it to the settings.
        cacertfile: file of trusted CA certificates; the system's when ``None``.
        certfile: client certificate.
        keyfile: key of the client certificate, when it is not in ``certfile``.
        verify: check the server's certificate and name.
        server_name: name expected in the certificate, when it is not ``host``.
    """

    host: str = "localhost"
    port: int = 5672
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: bool = False
    heartbeat: int | None = None
    connection_timeout: float | None = None
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True
    server_name: str | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a broker URL; what it leaves out is guest, guest, localhost, 5672 (5671 for amqps) and ``/``.

        Raises:
            ConfigurationError: names the mistake, and never shows the password.
        """
        scheme, separator, rest = url.strip().partition("://")
        tls = _SCHEMES.get(scheme.lower())
        if not separator or tls is None:
            raise ConfigurationError(
                f"The broker URL {redact(url)!r} must start with amqp://, amqps:// or pyamqp://."
            )
        try:
            parts = urlsplit(f"amqp://{rest}")
            port = parts.port
            host = parts.hostname
        except ValueError:  # its text may quote a piece of the password
            raise ConfigurationError(
                f"The broker URL {redact(url)!r} has no valid host and port. {_ENCODE_HINT}"
            ) from None
        if parts.fragment or port == 0 or (host and re.search(r"[\s,;]", host)):
            raise ConfigurationError(
                f"The broker URL {redact(url)!r} has no valid host and port. {_ENCODE_HINT}"
            )
        return cls(
            host=unquote(host) if host else "localhost",
            port=port or (5671 if tls else 5672),
            user=_text(parts.username, "guest", url),
            password=_text(parts.password, "guest", url),
            # amqp://host, amqp://host/ and amqp://host// all mean the default virtual host.
            vhost=_text(parts.path[1:] or None, "/", url),
            tls=tls,
            **_options(parts.query, tls, url),  # type: ignore[arg-type]  # each by its converter
        )

    @property
    def endpoint(self) -> str:
        """``host:port``, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Build the TLS context, ``None`` without TLS. Reads the certificate files.

        Raises:
            ConfigurationError: a certificate file cannot be read or used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cacertfile)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"A certificate file of the broker URL {self} cannot be used: {error}."
            ) from error
        return context

    def __str__(self) -> str:
        scheme = "amqps" if self.tls else "amqp"
        vhost = "/" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{scheme}://{quote(self.user, safe='')}:***@{self.endpoint}/{vhost}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def parse_addresses(urls: str | Sequence[str]) -> tuple[Address, ...]:
    """Read one URL, several separated by ``;``, or a sequence of either: the brokers of a cluster, tried in this order.

    Raises:
        ConfigurationError: a URL is wrong, or there is none.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    found = tuple(Address.parse(url) for text in given for url in _split(text) if url.strip())
    if not found:
        raise ConfigurationError(
            "No broker URL is given; write one like amqp://user:password@host:5672//"
        )
    return found


def in_order(addresses: Sequence[Address], strategy: str) -> tuple[Address, ...]:
    """The brokers in the order to try them: as written, or shuffled anew by each call with the strategy ``shuffle``."""
    found = list(addresses)
    if strategy == "shuffle":
        random.shuffle(found)
    return tuple(found)


def in_vhost(addresses: Sequence[Address], vhost: str | None) -> tuple[Address, ...]:
    """Put the virtual host that a topology names where a URL names none but ``/``; a URL that names one wins."""
    if vhost is None:
        return tuple(addresses)
    return tuple(
        replace(address, vhost=vhost) if address.vhost == "/" else address for address in addresses
    )


def redact(url: str) -> str:
    """Replace the password in a broker URL, or in a list of them, by ``***``; malformed URLs too."""
    return ";".join(_PASSWORD.sub(r"\1:***@", part) for part in _split(url))


# From the first colon of the authority to the last @ of the text: too much rather than too little, because a password
# with unencoded characters is exactly what a malformed URL has.
_PASSWORD = re.compile(
    r"^((?>(?:[^:/@]*://)?)[^:@]*):.*@", re.DOTALL
)  # atomic: "amqp:" is never the user
_SEPARATOR = re.compile(r";(?=\s*[A-Za-z+]+://|\s*$)")  # a password may hold a semicolon


def _split(urls: str) -> list[str]:
    return _SEPARATOR.split(urls)


def _text(value: str | None, default: str, url: str) -> str:
    if value is None:
        return default
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"A percent-encoded part of the broker URL {redact(url)!r} is not UTF-8."
        ) from None


# ---------------------------------------------------------------- query parameters


def _seconds(value: str) -> int:
    return _not_negative(int(value))


def _milliseconds(value: str) -> float:
    return _not_negative(int(value)) / 1000


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError
    return value


def _verify(value: str) -> bool:
    return {"verify_peer": True, "verify_none": False}[value]


# Query parameter: field, converter, what it must be, only with amqps.
_PARAMETERS: dict[str, tuple[str, Callable[[str], object], str, bool]] = {
    "heartbeat": ("heartbeat", _seconds, "whole seconds", False),
    "connection_timeout": ("connection_timeout", _milliseconds, "whole milliseconds", False),
    "cacertfile": ("cacertfile", str, "a file name", True),
    "certfile": ("certfile", str, "a file name", True),
    "keyfile": ("keyfile", str, "a file name", True),
    "verify": ("verify", _verify, "verify_peer or verify_none", True),
    "server_name_indication": ("server_name", str, "a host name", True),
}


def _options(query: str, tls: bool, url: str) -> dict[str, object]:
    options: dict[str, object] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameter = _PARAMETERS.get(name)
        if parameter is None:
            hint = did_you_mean(name, _PARAMETERS) or f"; known are {', '.join(_PARAMETERS)}."
            raise ConfigurationError(
                f"The broker URL {redact(url)!r} has an unknown option {name!r}{hint}"
            )
        field, convert, meaning, tls_only = parameter
        if tls_only and not tls:
            raise ConfigurationError(
                f"The option {name!r} of the broker URL {redact(url)!r} needs amqps://."
            )
        try:
            options[field] = convert(value)
        except (ValueError, KeyError):
            raise ConfigurationError(
                f"The option {name!r} of the broker URL {redact(url)!r} must be {meaning}."
            ) from None
    return options
