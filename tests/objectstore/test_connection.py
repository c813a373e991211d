"""The connection: it says why it can't, comes back by itself, and never lets a request wait in vain."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nkeys
import pytest

from agent.errors import ConnectError, NotAllowedError, StoreError, StoreUnavailableError
from agent.objectstore import Connection, Endpoint, NotSentError
from agent.objectstore import connection as module
from tests.objectstore.waiting import until
from tests.support.proxy import Proxy
from tests.support.server import NatsServer, free_port

MakeServer = Callable[..., NatsServer]


async def open_connection(*servers: str, timeout: float = 5.0, **access: object) -> Connection:
    return await Connection.open(Endpoint(list(servers), **access), name="test", timeout=timeout)  # type: ignore[arg-type]


# -- getting in


async def test_an_unreachable_server_is_named_without_its_password():
    with pytest.raises(ConnectError) as caught:
        await open_connection(f"nats://someone:s3cret@127.0.0.1:{free_port()}", timeout=0.5)

    assert not isinstance(caught.value, NotAllowedError)
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value) and "someone" not in str(caught.value)


async def test_a_server_that_starts_late_is_waited_for(make_server: MakeServer):
    port = free_port()
    opening = asyncio.create_task(open_connection(f"nats://127.0.0.1:{port}", timeout=20))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(make_server, port=port)

    async with await opening as connection:
        assert connection.connected


async def test_a_wrong_password_is_not_allowed_and_told_at_once(make_server: MakeServer, tmp_path: Path):
    server = make_server(config_extra="authorization { user: u, password: right }")
    secret = tmp_path / "password"
    secret.write_text("wr0ng\n")
    began = time.monotonic()

    with pytest.raises(NotAllowedError) as caught:
        await open_connection(server.url, user="u", password_file=secret, timeout=30)

    assert time.monotonic() - began < 15
    assert "wr0ng" not in str(caught.value)


async def test_a_missing_secret_is_named_by_its_file(tmp_path: Path):
    with pytest.raises(NotAllowedError, match="nowhere"):
        await open_connection("nats://127.0.0.1:4", token_file=tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "-----BEGIN NATS USER JWT-----\n", "hello"])
async def test_a_credentials_file_that_is_half_written_is_an_error_and_not_an_endless_loop(tmp_path: Path, text: str):
    path = tmp_path / "agent.creds"
    path.write_text(text)

    with pytest.raises(NotAllowedError, match=r"agent\.creds"):
        await open_connection("nats://127.0.0.1:4", credentials_file=path)


async def test_user_and_password_and_token_and_nkey_let_us_in(make_server: MakeServer, tmp_path: Path):
    password, token, seed = tmp_path / "password", tmp_path / "token", tmp_path / "seed"
    password.write_text("right\n")
    token.write_text("t0ken\n")
    text, public = user_nkey()
    seed.write_text(text)

    server = make_server(config_extra="authorization { user: u, password: right }")
    async with await open_connection(server.url, user="u", password_file=password) as connection:
        assert connection.connected
    async with await Connection.open(
        Endpoint([]), name="test", servers=[server.url], user="u", password="right"
    ) as connection:
        assert connection.connected
    server = make_server(config_extra="authorization { token: t0ken }")
    async with await open_connection(server.url, token_file=token) as connection:
        assert connection.connected
    server = make_server(config_extra=f"authorization {{ users: [{{ nkey: {public} }}] }}")
    async with await open_connection(server.url, nkey_seed_file=seed) as connection:
        assert connection.connected


async def test_a_rotated_password_is_read_again_when_reconnecting(make_server: MakeServer, tmp_path: Path):
    server = make_server(config_extra="authorization { user: u, password: old }")
    secret = tmp_path / "password"
    secret.write_text("old")

    async with await open_connection(server.url, user="u", password_file=secret) as connection:
        server.config_extra = "authorization { user: u, password: new }"
        await asyncio.to_thread(server.restart)
        await asyncio.sleep(0.5)
        secret.write_text("new")
        assert await connection.wait_connected(20)
        assert connection.reconnects == 1
        await connection.api("INFO")


async def test_a_tls_url_is_never_answered_in_plain_text(fresh_server: NatsServer, tmp_path: Path):
    secret = tmp_path / "password"
    secret.write_text("s3cret")

    with pytest.raises(ConnectError, match="TLS"):
        await open_connection(fresh_server.url.replace("nats://", "tls://"), user="u", password_file=secret)


@dataclass(frozen=True)
class Tls:
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


async def test_tls_with_our_own_ca_works_and_an_unknown_ca_is_refused(make_server: MakeServer, tmp_path: Path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if not await asyncio.to_thread(make_certificate, cert, key):
        pytest.skip("openssl can't make a certificate here")
    server = make_server(config_extra=f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
    url = server.url.replace("nats://", "tls://")

    async with await open_connection(url, tls=Tls(ca_file=cert)) as connection:
        assert connection.connected
    with pytest.raises(ConnectError, match=r"(?i)certificate"):
        await open_connection(url, timeout=10)
    with pytest.raises(ConnectError, match="TLS files"):
        await open_connection(url, tls=Tls(ca_file=tmp_path / "nowhere.pem"))


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type:DeprecationWarning")  # nats-py's call of aiohttp
async def test_websockets_work(make_server: MakeServer):
    port = free_port()
    make_server(config_extra=f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}')

    async with await open_connection(f"ws://127.0.0.1:{port}") as connection:
        assert (await connection.api("INFO"))["type"].endswith("account_info_response")


# -- JetStream


async def test_a_server_without_jetstream_is_told_apart(make_server: MakeServer):
    server = make_server(jetstream=False)

    with pytest.raises(NotAllowedError, match="JetStream"):
        await open_connection(server.url, timeout=1.5)


async def test_a_domain_that_is_not_there_is_named(fresh_server: NatsServer):
    with pytest.raises(NotAllowedError, match="'nowhere'"):
        await open_connection(fresh_server.url, domain="nowhere", timeout=1.5)


async def test_jetstream_of_a_domain_is_reached_by_its_prefix(make_server: MakeServer, tmp_path: Path):
    server = make_server(jetstream=False, config_extra=f'jetstream {{ store_dir: "{tmp_path / "js"}", domain: hub }}')

    async with await open_connection(server.url, domain="hub") as connection:
        assert connection.api_subject("INFO") == "$JS.hub.API.INFO"
        assert await connection.api("STREAM.NAMES")


# -- permissions


async def test_a_refused_subject_fails_its_request_at_once_and_by_name(make_server: MakeServer, tmp_path: Path):
    secret = tmp_path / "password"
    secret.write_text("p")
    server = make_server(
        config_extra="authorization { users: [{ user: u, password: p, permissions: "
        '{ publish: { deny: "$JS.API.STREAM.>" }, subscribe: ">" } }] }'
    )
    async with await open_connection(server.url, user="u", password_file=secret) as connection:
        began = time.monotonic()
        with pytest.raises(NotAllowedError, match=r"(?i)STREAM\.INFO\.OBJ_x"):
            await connection.api("STREAM.INFO.OBJ_x", timeout=30)
        assert time.monotonic() - began < 15
        await connection.api("INFO")


async def test_a_refused_inbox_is_told_instead_of_time_outs(make_server: MakeServer, tmp_path: Path):
    secret = tmp_path / "password"
    secret.write_text("p")
    server = make_server(
        config_extra="authorization { users: [{ user: u, password: p, permissions: "
        '{ publish: ">", subscribe: { deny: "_INBOX.>" } } }] }'
    )
    with pytest.raises(NotAllowedError, match="_INBOX"):
        await open_connection(server.url, user="u", password_file=secret, timeout=10)


# -- coming back


async def test_what_was_on_its_way_fails_at_once_when_the_connection_breaks_and_later_requests_work(
    fresh_server: NatsServer,
):
    changes: list[bool] = []
    with Proxy(fresh_server.port) as proxy:
        async with await open_connection(proxy.url) as connection:
            stop = connection.on_change(changes.append)
            proxy.hold()
            asking = asyncio.create_task(connection.api("INFO", timeout=60))
            await asyncio.sleep(0.1)
            proxy.cut()
            with pytest.raises(StoreUnavailableError) as caught:
                await asyncio.wait_for(asking, 20)
            assert not isinstance(caught.value, NotSentError)

            await until(lambda: not connection.connected)
            with pytest.raises(NotSentError):
                await connection.request("anything")

            proxy.resume()
            assert await connection.wait_connected(20)
            await connection.api("INFO")
            assert changes == [False, True]
            stop()
    assert changes == [False, True]


async def test_a_peer_that_went_silent_is_noticed_and_left(fresh_server: NatsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PING_INTERVAL", 0.2)
    with Proxy(fresh_server.port) as proxy:
        async with await open_connection(proxy.url) as connection:
            proxy.hold()
            asking = asyncio.create_task(connection.api("INFO", timeout=60))
            with pytest.raises(StoreUnavailableError):
                await asyncio.wait_for(asking, 20)
            proxy.resume()
            assert await connection.wait_connected(20)
            await connection.api("INFO")


async def test_a_client_that_closed_itself_for_good_is_replaced(fresh_server: NatsServer):
    async with await open_connection(fresh_server.url) as connection:
        before = connection._client
        pending = connection.publisher.send("x" * 5000)  # "maximum control line exceeded": nats-py gives up here
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(pending.wait(), 20)
        await until(lambda: connection.connected and connection._client is not before)
        await connection.api("INFO")
        assert connection.reconnects == 1


async def test_a_subject_that_would_close_the_connection_is_refused_before_it_is_sent(fresh_server: NatsServer):
    async with await open_connection(fresh_server.url) as connection:
        for subject in ("x" * 3001, "a b", "a\r\nPUB b 0\r\n"):
            with pytest.raises(StoreError):
                await connection.request(subject)
        await connection.api("INFO")
        assert connection.reconnects == 0


async def test_a_request_that_nobody_serves_has_certainly_had_no_effect(fresh_server: NatsServer):
    async with await open_connection(fresh_server.url) as connection:
        with pytest.raises(NotSentError):
            await connection.request("nobody.listens")


async def test_nothing_is_printed_whatever_happens(fresh_server: NatsServer, capfd: pytest.CaptureFixture[str]):
    async with await open_connection(fresh_server.url) as connection:
        await asyncio.to_thread(fresh_server.kill)
        await until(lambda: not connection.connected)
        await asyncio.sleep(1.0)
    with pytest.raises(ConnectError):
        await open_connection(fresh_server.url, timeout=0.3)

    assert capfd.readouterr() == ("", "")


async def test_closing_fails_what_still_waits(fresh_server: NatsServer):
    with Proxy(fresh_server.port) as proxy:
        connection = await open_connection(proxy.url)
        proxy.hold()
        asking = asyncio.create_task(connection.api("INFO", timeout=60))
        await asyncio.sleep(0.1)
        await connection.close()

        with pytest.raises(StoreUnavailableError):
            await asking
        with pytest.raises(NotSentError):
            await connection.api("INFO")


async def test_a_round_trip_is_measured(fresh_server: NatsServer):
    async with await open_connection(fresh_server.url) as connection:
        assert 0 < await connection.rtt() < 5
        assert connection.server_version == fresh_server.version
        assert connection.max_payload == 1 << 20


def user_nkey() -> tuple[str, str]:
    """(seed, public key) of a fresh user nkey."""
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(seed))
    return bytes(seed).decode(), bytes(pair.public_key).decode()


def make_certificate(cert: Path, key: Path) -> bool:
    """A self-signed one for 127.0.0.1."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    return (
        shutil.which("openssl") is not None
        and not subprocess.run([*command, *names], capture_output=True, check=False).returncode
    )


# -- other servers


async def test_it_goes_over_to_other_servers_and_can_be_told_again_when_they_do_not_answer(nats_server: NatsServer):
    seen: list[bool] = []
    async with await open_connection(nats_server.url) as connection:
        connection.on_change(seen.append)
        nowhere = f"nats://127.0.0.1:{free_port()}"
        connection.use(Endpoint([nowhere]))
        await until(lambda: not connection.connected)
        assert connection.url == nowhere
        with pytest.raises(NotSentError):
            await connection.api("INFO")
        with Proxy(nats_server.port) as proxy:
            connection.use(Endpoint([proxy.url]))
            await until(lambda: connection.connected)
            assert await connection.api("INFO")
            assert proxy.to_server > 0

            await connection.close()

    assert seen == [False, True, False]
