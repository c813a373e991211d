"""nats-py's client, with the few things changed that can only be changed from inside: above all, what CONNECT says.

Secrets are read from their files at each CONNECT, the first one and those of reconnects. And a `tls://` server that
doesn't offer TLS is refused before anything secret is sent (nats-py would go on in plain text).
What comes in is read and cut up by `wire`.

Everything else about nats-py is handled from outside, in `connection`. This module and `connection` are the only ones
that know its types.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.errors import JetsyncError
from agent.objectstore.credentials import Secrets
from agent.objectstore.natspy import Client, Srv, errors
from agent.objectstore.wire import WireParser, read_loop


class RefusedError(errors.Error):
    """We won't connect to this server, or can't: nats-py takes it as one more failed attempt."""


class JetsyncClient(Client):
    """`read_secrets` is called for each CONNECT, on the event loop; it reads small local files. `troubled` is called as
    soon as the connection is known to be lost, where nats-py's own callback may wait for a dead peer first."""

    def __init__(self, read_secrets: Callable[[], Secrets], *, troubled: Callable[[], None]) -> None:
        super().__init__()
        self._read_secrets = read_secrets
        self._troubled = troubled
        self._ps = WireParser(self)  # type: ignore[assignment]  # it stands in for nats-py's own
        logger = logging.getLogger("nats")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # without a handler, logging's last resort prints to stderr

    async def _read_loop(self) -> None:
        await read_loop(self)

    async def _process_op_err(self, e: Exception) -> None:
        self._troubled()
        await super()._process_op_err(e)

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server is not None and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise RefusedError("the URL says tls, but the server doesn't offer TLS")
        try:
            self._use(self._read_secrets())
        except JetsyncError as error:
            raise RefusedError(str(error)) from error
        return super()._connect_command()

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()  # an attempt that was refused leaves its socket open, and the next one would forget it
        await super()._connect_to_server(s)

    def _use(self, secrets: Secrets) -> None:
        if not secrets.any:
            return
        self._auth_configured = True
        self.options["user"] = secrets.user
        self.options["password"] = secrets.password if secrets.password is not None else ""
        self.options["token"] = secrets.token
        if secrets.seed is None:
            return
        if "nonce" not in self._server_info:
            raise RefusedError("the server asks for no nkey signature: it isn't set up for credentials or nkeys")
        jwt = secrets.jwt
        self._signature_cb = secrets.sign
        self._user_jwt_cb = jwt.encode if jwt is not None else None
        self._public_nkey = secrets.nkey

    @property
    def server_version_text(self) -> str:
        return str(self._server_info.get("version", ""))

    @property
    def serves_jetstream(self) -> bool:
        """Whether this very server has JetStream; another one of its cluster may have it all the same."""
        return bool(self._server_info.get("jetstream"))

    def abort(self) -> None:
        """Drop the socket now: nats-py's orderly close waits until a dead peer has taken what is still unsent."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
