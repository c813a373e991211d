"""One mapping's loop: hints -> settle -> look at dirty paths -> reconcile -> apply -> commit.

Reading order:

    the loop                 `mapping` (the life of one mapping), `session`, `steps`
    what is seen             `hints`, `looks`, `local` (the directory -> rows), `feed`, `remote`,
                             `remoteside` (metas -> rows)
    when to stop             `identity` (the root or the bucket isn't the one it was), `guard` (a plan would
                             delete too much)
    what is done             `planning`, `batches` (rows -> plans), `stage`, `lots`, `execute`, `transfer`, `resume`,
                             `failures` (actions -> outcomes), `outcome` (outcomes -> rows), `gates` (no space)
    what a person asks for   `conflicts`, `resolve`, `verify` with `check`, `sweep` and `repair`
    beside that              `janitor` (old chunks), `rehash` (all bytes once per interval), `retry` (the one place that
                             decides when to try again), `record`, `view`, `report` (what is told)
"""
