"""From a configuration to running mappings. `wiring` makes and stops it.

Commands call `once` (one `sync` or `plan`), `service` (the agent, and buckets) and `requests` (what is asked of single
mappings). Nothing is imported here: each command imports what it needs.
"""
