"""The SQLite schema, as migrations from the first version on; ``PRAGMA user_version`` counts those applied."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from lieaudit_server.errors import ConfigError

_VERSION_1 = """
CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    created REAL NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE resources (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('model', 'dataset')),
    sha256 TEXT NOT NULL REFERENCES blobs (sha256),
    name TEXT NOT NULL,
    format TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    details TEXT NOT NULL,
    UNIQUE (owner, kind, sha256)
) STRICT;
CREATE INDEX resources_by_blob ON resources (sha256);
CREATE TABLE uploads (
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    file TEXT NOT NULL UNIQUE,
    touched REAL NOT NULL,
    PRIMARY KEY (owner, kind, sha256)
) STRICT, WITHOUT ROWID;
CREATE TABLE audits (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    spec TEXT NOT NULL,
    blobs TEXT NOT NULL,
    threads INTEGER NOT NULL,
    device INTEGER,
    deadline REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    finished REAL,
    failure TEXT,
    sequence INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT,
    request_sha256 TEXT NOT NULL,
    UNIQUE (owner, idempotency_key)
) STRICT;
CREATE INDEX audits_by_state ON audits (state, number);
CREATE INDEX audits_by_owner ON audits (owner, number);
CREATE TABLE audit_blobs (
    audit_id TEXT NOT NULL REFERENCES audits (id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (audit_id, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_blobs_by_blob ON audit_blobs (sha256);
CREATE TABLE events (
    audit_id TEXT NOT NULL REFERENCES audits (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    time REAL NOT NULL,
    state TEXT NOT NULL,
    stage TEXT NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    rate REAL NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (audit_id, sequence)
) STRICT, WITHOUT ROWID;
"""

_VERSION_2 = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE garbage (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL,
    at_once INTEGER NOT NULL,
    quarantined REAL
) STRICT;
CREATE UNIQUE INDEX garbage_by_path ON garbage (path) WHERE quarantined IS NULL;
ALTER TABLE audits ADD COLUMN spent REAL NOT NULL DEFAULT 0;
ALTER TABLE audits ADD COLUMN report_sha256 TEXT;
ALTER TABLE audits ADD COLUMN report_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audits ADD COLUMN expiring REAL;
ALTER TABLE resources ADD COLUMN expiring REAL;
ALTER TABLE uploads ADD COLUMN expiring REAL;
"""

_VERSION_3 = """
ALTER TABLE audits ADD COLUMN memory_kills INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audits ADD COLUMN oom_mark TEXT NOT NULL DEFAULT '';
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Bring the schema to the newest version, each step in its own transaction; give the version found.

    Raises `ConfigError` where the state was written by a newer lieaudit-server.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > len(migrations):
        raise ConfigError(
            f"the data folder has schema version {found}, this lieaudit-server knows {len(migrations)}: upgrade it"
        )
    for version, script in enumerate(migrations[found:], start=found + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")
    return found
