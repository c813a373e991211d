-- Uploads that may go on after a crash say what they read.
ALTER TABLE journal ADD COLUMN source TEXT NOT NULL DEFAULT '';
