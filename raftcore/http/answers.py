"""Answers in JSON, and what status every error has.

The body of an error is ``{"error": …, "message": …}``: a word for programs and a sentence for people. For a command it
also holds ``outcome``: ``not_appended`` (it did not happen and will not: try again) or ``unknown`` (it may have
happened, or may yet).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from raftcore.errors import (
    MembershipRefused,
    NodeStopped,
    NotAppended,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    ProposalError,
    RaftCoreError,
    ReadUnavailable,
    WaitTimeout,
)

Outcome = Literal["not_appended", "unknown"]
Handler = Callable[[Request, Any], Awaitable[Response]]

RETRY_SECONDS = 1
"""What ``Retry-After`` says: about as long as an election takes."""

_encode = msgspec.json.encode

# The first class that fits decides, so a class stands before those that it is derived from.
_ERRORS: tuple[tuple[type[RaftCoreError], int, str], ...] = (
    (PayloadTooLarge, 413, "too_large"),
    (MembershipRefused, 409, "membership_refused"),
    (Overloaded, 503, "overloaded"),
    (NotAppended, 503, "no_leader"),
    (OutcomeUnknown, 504, "outcome_unknown"),
    (WaitTimeout, 504, "timeout"),
    (ReadUnavailable, 503, "read_unavailable"),
    (NodeStopped, 503, "stopped"),
)


class Failure(Exception):
    """An answer that is an error. `more` are further members of its body."""

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        outcome: Outcome | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, object] = {"error": error, "message": message}
        if outcome is not None:
            self.body["outcome"] = outcome
        self.body.update(more or {})


def reply(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(_encode(content), status, headers, "application/json")


def failure_of(error: RaftCoreError, outcome: Outcome | None = None) -> Failure:
    """An error of the node as an answer; `outcome` is for commands, and for one that does not say it by its type."""
    status, word = next(((status, word) for kind, status, word in _ERRORS if isinstance(error, kind)), (500, "failed"))
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    if outcome is not None and isinstance(error, ProposalError):
        outcome = error.outcome
    return Failure(status, word, str(error), outcome=outcome, headers=headers)


def handlers() -> dict[Any, Handler]:
    """What Starlette is to do with exceptions."""
    return {
        Failure: _failure,
        RaftCoreError: _raftcore_error,
        HTTPException: _http_exception,
        ClientDisconnect: _disconnected,
        Exception: _unexpected,
    }


async def _failure(_request: Request, failure: Failure) -> Response:
    return reply(failure.body, failure.status, failure.headers)


async def _raftcore_error(request: Request, error: RaftCoreError) -> Response:
    return await _failure(request, failure_of(error))


async def _http_exception(request: Request, error: HTTPException) -> Response:
    path, method = request.url.path, request.method
    if error.status_code == 404:
        body = {"error": "not_found", "message": f"there is nothing at {path}; the reference lists the paths"}
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        body = {"error": "method_not_allowed", "message": f"{path} does not take {method}; it takes {allowed}"}
    else:
        body = {"error": "refused", "message": error.detail}
    return reply(body, error.status_code, error.headers)


async def _disconnected(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _unexpected(_request: Request, error: Exception) -> Response:
    # The server logs the error itself: Starlette raises it again after this answer.
    return reply({"error": "internal", "message": f"unexpected {type(error).__name__}; see the log of the node"}, 500)
