"""Page tokens: the number after which the next page begins, newest first."""

from __future__ import annotations

from lieaudit_server.errors import invalid

_DEFAULT, _LARGEST = 50, 500
_FIRST = 2**62


def size(asked: int) -> int:
    """Return the page size for ``page_size``; 0 is the default, more than 500 is 500. Raises `ServiceError`."""
    if asked < 0:
        raise invalid("page_size", "page_size must not be negative")
    return min(asked or _DEFAULT, _LARGEST)


def before(token: str) -> int:
    """Read a page token; empty is the first page. Raises `ServiceError`."""
    if not token:
        return _FIRST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise invalid("page_token", "page_token is not one that this server gave", reason="INVALID_PAGE_TOKEN")
    return int(token)


def next_token(numbers: list[int], page_size: int, *, cut: bool = False) -> str:
    """Return the token for the page after these numbers; empty where it was the last. ``cut``: it was not."""
    return str(numbers[-1]) if cut or len(numbers) == page_size else ""
