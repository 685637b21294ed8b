"""Facts about the folder as a whole, in the state: its identity, and how long servers have run on it."""

from __future__ import annotations

import sqlite3


def get(db: sqlite3.Connection, name: str) -> str | None:
    """Return the value of a fact, or None."""
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row["value"])


def put(db: sqlite3.Connection, name: str, value: str) -> None:
    """Set a fact."""
    db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


def uptime(db: sqlite3.Connection) -> float:
    """Return the seconds that servers have run on this folder, in all their lives together.

    It is measured with clocks that nobody sets and only rises: what is deleted for its age waits for it, whatever the
    wall clock says.
    """
    return float(get(db, "uptime") or 0.0)


def add_uptime(db: sqlite3.Connection, seconds: float) -> float:
    """Count the seconds since the last call; give the new sum."""
    total = uptime(db) + max(seconds, 0.0)
    put(db, "uptime", repr(total))
    return total
