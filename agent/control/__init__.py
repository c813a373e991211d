"""How commands reach the running agent: a Unix socket in its state directory.

    protocol.py   the lines, the limits, errors on the wire, paths that are too long for a socket
    server.py     the agent's end
    client.py     the command's end, without an event loop

Nothing is imported here: a command must be quick to find out that no agent runs.
"""
