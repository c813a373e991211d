"""One mapping's loop: hints -> settle -> look at dirty paths -> reconcile -> apply -> commit.

Reading order: `mapping` (the life of one mapping) and `session` (its loop); what is seen: `hints`, `looks` and `local`
(the directory -> rows), `feed`, `remote` and `remoteside` (metas -> rows); what is done: `batches` (rows -> plans), `stage`,
`lots`, `execute`, `transfer` and `failures` (actions -> outcomes), `outcome` (outcomes -> rows); beside that: `janitor` (old
chunks), `rehash` (a full look at all bytes), `retry` (the one place that decides when to try again), `view` and `report`.
"""
