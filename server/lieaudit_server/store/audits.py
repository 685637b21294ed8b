"""Audits and their events in the state. All functions run inside `Database.run`."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UNFINISHED = ("queued", "running")
FINISHED = ("succeeded", "failed", "cancelled")
_PROGRESS_KEPT = 1000
_PAGE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an audit failed; the fields of `lieaudit.errors.LieauditError`."""

    reason: str
    message: str
    subject: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored report: its checksum and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an audit; sequence numbers only rise."""

    audit_id: str
    sequence: int
    time: float
    state: str
    stage: str
    done: int
    total: int
    rate: float
    message: str


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit.

    ``blobs`` says under each role (``model``, ``dataset``, ``torch_source``, ``torch_weights``) the ``sha256``,
    ``name`` and ``format`` of what it reads, so that deleting the resource while the audit waits takes nothing from it;
    ``device`` is its GPU (None: CPU); ``deadline`` and ``spent`` are seconds of running, in all its starts together;
    ``memory_kills`` of these starts ended because the kernel had no memory left.
    """

    number: int
    id: str
    owner: str
    state: str
    spec: Mapping[str, Any]
    blobs: Mapping[str, Mapping[str, str]]
    threads: int
    device: int | None
    deadline: float
    attempts: int
    created: float
    finished: float | None
    failure: Failure | None
    sequence: int
    idempotency_key: str | None
    request_sha256: str
    spent: float = 0.0
    report: Kept | None = None
    memory_kills: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED


def _audit(row: sqlite3.Row) -> Audit:
    values = dict(row)
    values["spec"] = json.loads(values["spec"])
    values["blobs"] = json.loads(values["blobs"])
    values["failure"] = None if values["failure"] is None else Failure(**json.loads(values["failure"]))
    sha256, size = values.pop("report_sha256"), values.pop("report_bytes")
    values["report"] = None if sha256 is None else Kept(sha256, size)
    del values["expiring"], values["oom_mark"]
    return Audit(**values)


def find(db: sqlite3.Connection, audit_id: str, owner: str | None) -> Audit | None:
    """Find an audit of the owner (None: of anybody)."""
    row = db.execute(
        "SELECT * FROM audits WHERE id = ? AND (? IS NULL OR owner = ?)", (audit_id, owner, owner)
    ).fetchone()
    return None if row is None else _audit(row)


def find_by_key(db: sqlite3.Connection, owner: str, key: str) -> Audit | None:
    """Find an owner's audit by its idempotency key."""
    row = db.execute("SELECT * FROM audits WHERE owner = ? AND idempotency_key = ?", (owner, key)).fetchone()
    return None if row is None else _audit(row)


def find_alike(db: sqlite3.Connection, owner: str, request_sha256: str) -> Audit | None:
    """Find an owner's latest audit of a request that has a report."""
    row = db.execute(
        "SELECT * FROM audits WHERE owner = ? AND request_sha256 = ? AND state = 'succeeded'"
        " ORDER BY number DESC LIMIT 1",
        (owner, request_sha256),
    ).fetchone()
    return None if row is None else _audit(row)


def page(db: sqlite3.Connection, owner: str | None, state: str, before: int, size: int) -> tuple[list[Audit], bool]:
    """Return up to ``size`` audits, newest first, with numbers below ``before``; ``state`` empty: any.

    The second value says that there are more because their specs together would be too large for one page.
    """
    rows = db.execute(
        "SELECT * FROM audits WHERE (? IS NULL OR owner = ?) AND (? = '' OR state = ?) AND number < ?"
        " ORDER BY number DESC LIMIT ?",
        (owner, owner, state, state, before, size),
    )
    found: list[Audit] = []
    total = 0
    for row in rows:
        total += len(row["spec"])
        if found and total > _PAGE_BYTES:
            rows.close()
            return found, True
        found.append(_audit(row))
    return found, False


def queued(db: sqlite3.Connection) -> list[Audit]:
    """Return the waiting audits, oldest first, without their specs and blobs: what the order needs."""
    rows = db.execute(
        "SELECT number, id, owner, state, '{}' AS spec, '{}' AS blobs, threads, device, deadline, attempts, created,"
        " finished, failure, sequence, idempotency_key, request_sha256, spent, report_sha256, report_bytes, expiring,"
        " memory_kills, oom_mark"
        " FROM audits WHERE state = 'queued' ORDER BY number"
    )
    return [_audit(row) for row in rows]


def succeeded(db: sqlite3.Connection) -> list[Audit]:
    """Return the audits that have a report."""
    return [_audit(row) for row in db.execute("SELECT * FROM audits WHERE state = 'succeeded' ORDER BY number")]


def counts(db: sqlite3.Connection, owner: str | None = None) -> dict[str, int]:
    """Count audits by state."""
    rows = db.execute(
        "SELECT state, count(*) AS n FROM audits WHERE (? IS NULL OR owner = ?) GROUP BY state", (owner, owner)
    )
    return {row["state"]: row["n"] for row in rows}


def insert(db: sqlite3.Connection, audit: Audit) -> Audit:
    """Accept an audit in state ``queued``, with its first event."""
    db.execute(
        "INSERT INTO audits (id, owner, state, spec, blobs, threads, device, deadline, created, idempotency_key,"
        " request_sha256) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            audit.id,
            audit.owner,
            json.dumps(audit.spec),
            json.dumps(audit.blobs),
            audit.threads,
            audit.device,
            audit.deadline,
            audit.created,
            audit.idempotency_key,
            audit.request_sha256,
        ),
    )
    for sha256 in {blob["sha256"] for blob in audit.blobs.values()}:
        db.execute("INSERT INTO audit_blobs (audit_id, sha256) VALUES (?, ?)", (audit.id, sha256))
    add_event(db, audit.id, state="queued")
    return _existing(db, audit.id)


def start(db: sqlite3.Connection, audit_id: str, oom_mark: str = "") -> Audit | None:
    """Take an audit from ``queued`` to ``running``; None where it is no longer queued.

    ``oom_mark`` is `scheduling.oom.mark` of this moment, should the server not live to see how it ends.
    """
    changed = db.execute(
        "UPDATE audits SET state = 'running', attempts = attempts + 1, oom_mark = ? WHERE id = ? AND state = 'queued'",
        (oom_mark, audit_id),
    ).rowcount
    if not changed:
        return None
    add_event(db, audit_id, state="running", stage="load")
    return _existing(db, audit_id)


def requeue(db: sqlite3.Connection, audit_id: str, message: str, *, counts: bool = True) -> bool:
    """Put an interrupted audit back into the queue; its start ``counts`` among those it may have, or does not."""
    changed = db.execute(
        "UPDATE audits SET state = 'queued', attempts = attempts - ? WHERE id = ? AND state = 'running'",
        (0 if counts else 1, audit_id),
    ).rowcount
    if changed:
        add_event(db, audit_id, state="queued", message=message)
    return bool(changed)


def count_memory_kill(db: sqlite3.Connection, audit_id: str) -> int:
    """Count that a start of an audit was killed for want of memory; give how many of them were."""
    row = db.execute(
        "UPDATE audits SET memory_kills = memory_kills + 1 WHERE id = ? RETURNING memory_kills", (audit_id,)
    ).fetchone()
    return int(row["memory_kills"])


def requeue_all(db: sqlite3.Connection, message: str, oom_rose: Callable[[str], bool] = lambda _: False) -> int:
    """Put every running audit back into the queue: what a server does first after it was killed.

    ``oom_rose`` says of the mark that an audit started with whether the kernel has killed for want of memory since.
    """
    rows = db.execute("SELECT id, oom_mark FROM audits WHERE state = 'running'").fetchall()
    for row in rows:
        if oom_rose(row["oom_mark"]):
            count_memory_kill(db, row["id"])
    return sum(requeue(db, row["id"], message) for row in rows)


def finish(
    db: sqlite3.Connection, audit_id: str, state: str, failure: Failure | None = None, report: Kept | None = None
) -> Audit | None:
    """Take an audit to a final state; None where it already has one. Its blobs may go, its progress is forgotten."""
    text = None
    if failure is not None:
        text = json.dumps(
            {"reason": failure.reason, "message": failure.message, "subject": failure.subject, "hint": failure.hint}
        )
    changed = db.execute(
        "UPDATE audits SET state = ?, finished = ?, failure = ?, report_sha256 = ?, report_bytes = ?"
        " WHERE id = ? AND state IN ('queued', 'running')",
        (
            state,
            time.time(),
            text,
            None if report is None else report.sha256,
            0 if report is None else report.size,
            audit_id,
        ),
    ).rowcount
    if not changed:
        return None
    db.execute("DELETE FROM events WHERE audit_id = ? AND state = 'running' AND stage <> 'load'", (audit_id,))
    db.execute("DELETE FROM audit_blobs WHERE audit_id = ?", (audit_id,))
    add_event(db, audit_id, state=state, message="" if failure is None else failure.message)
    return _existing(db, audit_id)


def add_event(
    db: sqlite3.Connection,
    audit_id: str,
    *,
    state: str,
    stage: str = "",
    done: int = 0,
    total: int = 0,
    rate: float = 0.0,
    message: str = "",
) -> None:
    """Append an event with the next sequence number."""
    row = db.execute(
        "UPDATE audits SET sequence = sequence + 1 WHERE id = ? RETURNING sequence", (audit_id,)
    ).fetchone()
    db.execute(
        "INSERT INTO events (audit_id, sequence, time, state, stage, done, total, rate, message)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (audit_id, row["sequence"], time.time(), state, stage, done, total, rate, message),
    )


def spend(db: sqlite3.Connection, audit_id: str, seconds: float) -> None:
    """Remember for how long an audit has run, in all its starts."""
    db.execute("UPDATE audits SET spent = max(spent, ?) WHERE id = ?", (seconds, audit_id))


def progress(db: sqlite3.Connection, audit_id: str, stage: str, done: int, total: int, rate: float) -> None:
    """Append a progress event, if the audit still runs; only the latest of them are kept."""
    row = db.execute("SELECT state, sequence FROM audits WHERE id = ?", (audit_id,)).fetchone()
    if row is not None and row["state"] == "running":
        add_event(db, audit_id, state="running", stage=stage, done=done, total=total, rate=rate)
        db.execute(
            "DELETE FROM events WHERE audit_id = ? AND sequence < ? AND state = 'running' AND stage <> 'load'",
            (audit_id, row["sequence"] - _PROGRESS_KEPT),
        )


def events(db: sqlite3.Connection, audit_id: str, after: int) -> list[Event]:
    """Return the events after a sequence number, in order."""
    rows = db.execute("SELECT * FROM events WHERE audit_id = ? AND sequence > ? ORDER BY sequence", (audit_id, after))
    return [Event(**dict(row)) for row in rows]


def last_events(db: sqlite3.Connection, audit_ids: list[str]) -> dict[str, Event]:
    """Return the latest event of each audit."""
    found = {}
    for audit_id in audit_ids:
        row = db.execute(
            "SELECT * FROM events WHERE audit_id = ? ORDER BY sequence DESC LIMIT 1", (audit_id,)
        ).fetchone()
        found[audit_id] = Event(**dict(row))
    return found


def follow(db: sqlite3.Connection, audit_id: str, owner: str | None, after: int) -> tuple[list[Event], bool] | None:
    """Return the events after a sequence number and whether the audit has ended, both of the same moment.

    None where the owner (None: anybody) has no such audit. A number that the audit has not reached yet, as from before
    a backup was put back, counts as the one before the last.
    """
    row = db.execute(
        "SELECT state, sequence FROM audits WHERE id = ? AND (? IS NULL OR owner = ?)", (audit_id, owner, owner)
    ).fetchone()
    if row is None:
        return None
    after = after if after <= row["sequence"] else row["sequence"] - 1
    return events(db, audit_id, after), row["state"] in FINISHED


def delete(db: sqlite3.Connection, audit_id: str) -> bool:
    """Delete an audit that has ended; the caller says what becomes of its folder."""
    return bool(db.execute(f"DELETE FROM audits WHERE id = ? AND state IN {FINISHED}", (audit_id,)).rowcount)  # noqa: S608


def adopt(db: sqlite3.Connection, audit: Audit) -> None:
    """Take a finished audit into the state again, from the sidecar of its report."""
    report = audit.report
    if report is None:
        raise ValueError("an audit without a report cannot be adopted")
    insert(db, audit)
    db.execute(
        "UPDATE audits SET state = 'running', attempts = ?, spent = ? WHERE id = ?",
        (audit.attempts, audit.spent, audit.id),
    )
    finish(db, audit.id, "succeeded", report=report)
    db.execute("UPDATE audits SET finished = coalesce(?, finished) WHERE id = ?", (audit.finished, audit.id))


def _existing(db: sqlite3.Connection, audit_id: str) -> Audit:
    return _audit(db.execute("SELECT * FROM audits WHERE id = ?", (audit_id,)).fetchone())
