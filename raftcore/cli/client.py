"""Asking a member over HTTP, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

TIMEOUT_SECONDS = 30.0
"""Longer than a member takes to give up by itself (http.request_timeout_ms)."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024

url_option = click.option(
    "--url",
    envvar="RAFTCORE_URL",
    required=True,
    help="A member's HTTP address, such as http://127.0.0.1:8101; any member will do. Default: $RAFTCORE_URL.",
)


class Answer:
    """A status, headers (lower-case names) and a body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Member:
    """One member at `url`. Every method raises `click.ClickException` with one line when there is no good answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise click.UsageError(f"'{url}' is not a member's address; write it like http://127.0.0.1:8101")
        self.url = url
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=TIMEOUT_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        content: object = None,
    ) -> Answer:
        """Make one request. `query` leaves out what is None; `content` is sent as JSON. An error answered is raised."""
        chosen = {name: str(value) for name, value in (query or {}).items() if value is not None}
        target = f"{self._prefix}{path}" + (f"?{urlencode(chosen)}" if chosen else "")
        if content is not None:
            body = json.dumps(content).encode()
        try:
            self._connection.request(method, target, body)
            response = self._connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"{self.url}: no answer: {str(error) or type(error).__name__}") from error
        finally:
            self._connection.close()
        if len(data) > MAX_ANSWER_BYTES:
            raise click.ClickException(f"{self.url}: the answer is over {MAX_ANSWER_BYTES} bytes; ask for less")
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.status >= 400:
            raise click.ClickException(f"{self.url}: {_explained(response.status, data)}")
        return Answer(response.status, headers, data)

    def get(self, path: str, **query: object) -> Any:
        """What is at `path`, decoded from JSON."""
        answer = self.ask("GET", path, query=query)
        try:
            return answer.json()
        except ValueError:
            raise click.ClickException(
                f"{self.url}: the answer is not a raftcore node's; correct the address"
            ) from None


def _explained(status: int, data: bytes) -> str:
    try:
        body = json.loads(data)
        message, outcome = str(body["message"]), body.get("outcome")
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"status {status}, and not in the words of a raftcore node; correct the address"
    told = {"not_appended": "it did not happen", "unknown": "it may have happened"}
    return f"{message} ({told[outcome]})" if outcome in told and told[outcome] not in message else message
