"""RabbitMQ's management API, as far as checks read it. Optional: nothing that carries tasks needs it."""

from __future__ import annotations

import base64
import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import msgspec

from amqtask.amqp.address import Address
from amqtask.errors import ConfigurationError


class NoAnswer(Exception):
    """The management API does not answer, or refuses; the text says why, for a sentence."""


class Management(msgspec.Struct, frozen=True):
    """Where the management API is and how to log in. Any thread.

    Attributes:
        url: without a path.
        user: login name.
        password: login password; never in a message.
        timeout: seconds for each answer.
    """

    url: str
    user: str
    password: str
    timeout: float = 5.0

    @classmethod
    def of(cls, address: Address, url: str | None = None) -> Management:
        """The API of a broker: at its default port, or at ``url``, with the broker's login.

        Raises:
            ConfigurationError: ``url`` is no http address.
        """
        host = f"[{address.host}]" if ":" in address.host else address.host
        found = url or (f"https://{host}:15671" if address.tls else f"http://{host}:15672")
        parts = urlsplit(found)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigurationError(
                "The management URL must be like http://host:15672, without a login in it."
            )
        return cls(found.rstrip("/"), address.user, address.password)

    def get(self, *path: str) -> Any:
        """What the API answers to a GET; each part of the path is quoted.

        Raises:
            NoAnswer: it does not answer, refuses, or sends no JSON.
        """
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = Request(
            f"{self.url}/api/{'/'.join(quote(part, safe='') for part in path)}",
            headers={"Authorization": f"Basic {token}"},
        )
        try:
            # a proxy of the environment is for the web, not for the broker beside us
            with build_opener(ProxyHandler({})).open(request, timeout=self.timeout) as answer:
                return json.load(answer)
        except HTTPError as error:
            error.close()
            raise NoAnswer(f"it answers {error.code} {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise NoAnswer(str(getattr(error, "reason", error))) from None
