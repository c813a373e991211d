"""One mapping's loop: hints -> settle -> look at dirty paths -> reconcile -> apply -> commit.

Reading order: `mapping` (the life of one mapping), `session` and `steps` (its loop). What is seen: `hints`, `looks` and
`local` (the directory -> rows), `feed`, `remote` and `remoteside` (metas -> rows). When to stop: `identity` (the root and the
bucket aren't the ones they were) and `guard` (a plan would delete too much). What is done: `planning` and `batches`
(rows -> plans), `stage`, `lots`, `execute`, `transfer` and `failures` (actions -> outcomes), `outcome` (outcomes ->
rows). What a person asks for: `conflicts` and `resolve`, `verify`. Beside that: `janitor` (old chunks), `rehash` (all
bytes once per interval) and `repair`, `retry` (the one place that decides when to try again), `record`, `view` and
`report` (what is told).
"""
