-- The state of one mapping, schema version 2. This file makes the latest version; migrations/NNN.sql brings an older one to NNN.
--
-- One row per path. TEXT with the default BINARY collation in a UTF-8 database orders by the bytes of the UTF-8, which is
-- the order of a scan. WITHOUT ROWID: the ordered pass over all paths reads the table from front to back, whatever the
-- order was in which the paths came in.
--
-- What is mostly absent is 0 or '' and not NULL: binding None costs CPython's sqlite3 ten times what binding 0 costs.
-- NULL is kept for "unknown" (an mtime). The codec is agent/state/rows.py; it always writes whole rows.
--
-- kinds: 0 absent, 1 file, 2 link, 3 directory, 4 obstacle
-- flags: the bits of rows.py (racy is bit 0; executable bits; "the same digest as the local side"; how it went)
-- more:  JSON of what few rows have: link targets, an obstacle's reason and detail, integers beyond 64 bits
CREATE TABLE paths (
  path           TEXT    NOT NULL PRIMARY KEY,
  l_kind         INTEGER NOT NULL,
  s_size         INTEGER NOT NULL,  -- the signature of the local side: what lstat said
  s_mtime        INTEGER NOT NULL,
  s_ctime        INTEGER NOT NULL,
  s_inode        INTEGER NOT NULL,  -- as a signed integer
  s_mode         INTEGER NOT NULL,
  flags          INTEGER NOT NULL,
  dirty          INTEGER NOT NULL,  -- 1: to be reconciled
  verdict        INTEGER NOT NULL,  -- 0 none, 1 conflict, 2 diverged
  reason         TEXT    NOT NULL,  -- the obstacle that counts for this path, else ''
  l_digest       BLOB    NOT NULL,
  a_kind         INTEGER NOT NULL,  -- the ancestor
  a_digest       BLOB    NOT NULL,
  a_size         INTEGER NOT NULL,
  a_mtime        INTEGER,
  a_local_mtime  INTEGER,
  a_remote_mtime INTEGER,
  r_kind         INTEGER NOT NULL,  -- the remote side
  r_digest       BLOB    NOT NULL,
  r_size         INTEGER NOT NULL,
  r_mtime        INTEGER,
  r_revision     INTEGER NOT NULL,  -- -1: no meta was ever seen
  r_nuid         TEXT    NOT NULL,
  r_chunks       INTEGER NOT NULL,
  more           TEXT    NOT NULL
) WITHOUT ROWID;

CREATE INDEX paths_dirty   ON paths (path) WHERE dirty = 1;
CREATE INDEX paths_nuid    ON paths (r_nuid) WHERE r_kind > 0 AND r_nuid <> '';
CREATE INDEX paths_verdict ON paths (verdict, path) WHERE verdict > 0;
CREATE INDEX paths_reason  ON paths (reason, path) WHERE reason <> '';

-- Names of the bucket that are no path of this mapping: outside its prefix or filters, or names that can't be a path
-- (those have a reason). Kept so that the number of names on the server can be compared, and renames be followed.
CREATE TABLE others (
  name     BLOB    NOT NULL PRIMARY KEY,
  revision INTEGER NOT NULL,
  nuid     TEXT    NOT NULL,        -- '' for a delete marker
  reason   TEXT    NOT NULL,
  detail   TEXT    NOT NULL
) WITHOUT ROWID;

CREATE INDEX others_nuid   ON others (nuid) WHERE nuid <> '';
CREATE INDEX others_reason ON others (reason) WHERE reason <> '';

-- Chunks that may have to be purged: of uploads whose outcome isn't known yet, and of replaced objects.
CREATE TABLE journal (
  nuid              TEXT    NOT NULL PRIMARY KEY,
  bucket            TEXT    NOT NULL,
  name              TEXT    NOT NULL,
  kind              TEXT    NOT NULL,
  expected_revision INTEGER NOT NULL,
  due_ns            INTEGER NOT NULL,
  created_ns        INTEGER NOT NULL,
  source            TEXT    NOT NULL DEFAULT ''  -- what an upload that may go on reads
) WITHOUT ROWID;

CREATE INDEX journal_due ON journal (due_ns);

CREATE TABLE kv (
  key   TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;
