"""What an operator sees of the agent: logs, metrics, status and the HTTP endpoints. It reads, and never decides.

    keys.py       the names of the fields in log lines
    logging.py    structlog: console on a terminal, JSON elsewhere; `Once` reports each problem once
    redact.py     secrets out of whatever is shown
    reasons.py    the closed list of error reasons, and which exception is which
    meter.py      where the agent says what happens; these keep nothing
    metrics.py    the Prometheus series of ECOSYSTEM 3.3, all there from the start, gone with their mapping
    textfile.py   the same for a one-shot run, for node_exporter
    version.py    which jetsync this is
    status.py     what `status --json` says, as values
    readiness.py  when the agent is ready, and if not, why not: pure
    http.py       /metrics, /livez, /readyz, /api/v1/status

Nothing is imported here: structlog, prometheus_client and aiohttp cost a command of the CLI more than its work does.
"""
