"""What `farspan drain` asks a gateway's operator port, and what it shows.

The gateway does the work (`drain.py`); whoever asked may go away, and it goes on.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from farspan.core import limits
from farspan.core.errors import AuthError, BadValueError, ConnectError, ServiceError

from farspan_server.drain import ACTIVE, DONE
from farspan_server.status import columns

_LOOK_S: Final = 0.2  # between questions how far it is
_OPENER: Final = urllib.request.ProxyHandler({})  # the way to a gateway leads through no proxy


class Operator:
    """An operator's port, asked with a token. ca: of its certificate, for https."""

    def __init__(self, url: str, token: str, ca: Path | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadValueError(f"operator: {url[:64]!r}; expected http://host:port")
        self._url = url.rstrip("/")
        self._token = token
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        tls = urllib.request.HTTPSHandler(context=context)
        self._opener = urllib.request.build_opener(_OPENER, tls)

    def workers(self) -> list[dict[str, Any]]:
        """Return what the gateway says of its workers. AuthError, ConnectError, ServiceError."""
        return self._ask("/workers", None)

    def tenants(self) -> list[dict[str, Any]]:
        """Return what the gateway says of its tenants; see `by_tenant.Account`. The same errors."""
        return self._ask("/tenants", None)

    def drain(self, names: list[str] | str, wait_s: float) -> list[dict[str, Any]]:
        """Begin to drain workers; return all of them. BadValueError if one is not there."""
        return self._ask("/drain", json.dumps({"workers": names, "wait_s": wait_s}).encode())

    def _ask(self, path: str, body: bytes | None) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self._token}"}
        asked = urllib.request.Request(self._url + path, body, headers)
        try:
            with self._opener.open(asked, timeout=limits.CONNECT_S) as answer:
                found: list[dict[str, Any]] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            text = error.read(1000).decode("utf-8", "replace").strip()
            if error.code == 401:
                raise AuthError(f"{self._url} refuses this operator's token") from None
            kind = BadValueError if error.code == 400 else ServiceError
            raise kind(text) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ConnectError(f"no operator port answers at {self._url}: {reason}") from None
        except ValueError:
            raise ServiceError(f"{self._url} is no operator port of a farspan gateway") from None


def drain(
    operator: Operator, names: list[str] | str, wait_s: float, say: Callable[[str], None]
) -> bool:
    """Drain workers and return whether all were; waits until it is over. Says each step."""
    there = operator.drain(names, wait_s)
    mine = {each["worker"] for each in there} if names == "all" else set(names)
    said: dict[str, str] = {}
    began_s = time.monotonic()
    while True:
        states = {each["worker"]: each for each in there if each["worker"] in mine}
        for name, each in states.items():
            state = each.get("drain", "")
            if state != said.get(name):
                said[name] = state
                text = f"{state} (pid {each['pid']})" if "pid" in each else state
                say(f"{time.monotonic() - began_s:6.1f} s  {name}: {text}")
        if not any(each.get("drain") in ACTIVE for each in states.values()):
            return all(each.get("drain") == DONE for each in states.values())
        time.sleep(_LOOK_S)
        there = operator.workers()


def table(workers: list[dict[str, Any]]) -> str:
    """Return the workers as lines of text."""
    if not workers:
        return "no worker"
    names = ("worker", "kind", "state", "sessions", "host", "pid", "drain")
    return columns([names, *(tuple(str(each.get(n, "-")) for n in names) for each in workers)])
