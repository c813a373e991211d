"""One mapping's loop: hints -> settle -> look at dirty paths -> reconcile -> apply -> commit.

Reading order: `mapping` (the actor that owns one mapping), `hints` (when a changed path is ready to be read), `looks`
(local paths -> rows), `remote` (metas -> rows), `execute` (actions -> outcomes), `commit` (outcomes -> rows), `feed`
(one follower for each bucket), `janitor` (old chunks), `retry` (the one place that decides when to try again).
"""
