"""Users of JetStreamStore: passwords, tokens, permissions, credentials files and certificates."""

import base64
import json
import os
import ssl
from contextlib import ExitStack, contextmanager

import nkeys
import pytest
import trio
import trustme

from tests._helpers.nats_server import running_server
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog.stores import JetStreamStore, open_store

PATIENCE = 30.0


def events(first, count):
    return [
        PersistedEvent(f"id-{seq}", seq, 1_000 + seq, None, ModuleEvent("m", "t"))
        for seq in range(first, first + count)
    ]


async def test_users_passwords_and_tokens():
    with running_server(config='authorization { user: "u@1", password: "p:w/1" }') as node:
        async with open_store(f"nats://u%401:p%3Aw%2F1@127.0.0.1:{node.port}/S") as store:
            await store.append_batch(events(1, 1))
        for wrong in ({}, {"user": "u@1", "password": "hush"}, {"token": "hush"}):
            with pytest.raises(StoreUnusable, match=r"refuses the connection: .*check user") as caught:
                async with JetStreamStore.open(node.url, **wrong):
                    pass
            assert "hush" not in str(caught.value)
    with running_server(config='authorization { token: "hush" }') as node:
        async with JetStreamStore.open(node.url, token="hush") as store:  # noqa: S106 - of this test
            assert "hush" not in repr(store)
            await store.append_batch(events(1, 1))


async def test_a_permission_that_is_missing_is_told():
    users = 'authorization { users: [{ user: r, password: x, permissions: { publish: ["nothing"] } }] }'
    with running_server(config=users) as node:
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(StoreUnusable, match=r"(?i)permissions violation for publish"),
        ):
            async with JetStreamStore.open(node.url, user="r", password="x"):  # noqa: S106 - of this test
                pass


async def test_a_user_that_may_only_read_takes_no_lock(caplog):
    may_ask = '{ user: r, password: x, permissions: { publish: ["$JS.API.>"] } }'
    with running_server(config=f"authorization {{ users: [{{ user: w, password: x }}, {may_ask}] }}") as node:
        async with JetStreamStore.open(node.url, user="w", password="x"):  # noqa: S106 - of this test
            pass
        with trio.fail_after(PATIENCE), pytest.raises(StoreUnusable, match=r"(?i)permissions violation"):
            async with JetStreamStore.open(node.url, user="r", password="x"):  # noqa: S106 - as above
                pass
    assert not caplog.records


def jwt(claims, signer, subject):
    """A token as NATS has it."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = {"jti": "x", "iat": 1, "iss": signer.public_key.decode(), "sub": subject.public_key.decode()}
    text = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part({**body, **claims})
    return (text + b"." + base64.urlsafe_b64encode(signer.sign(text)).rstrip(b"=")).decode()


def key_pair(prefix):
    """A new key; the package makes them from a seed only."""
    raw = bytearray(os.urandom(32))
    return nkeys.from_seed(nkeys.encode_seed(raw, prefix))


async def test_a_credentials_file(tmp_path):
    """The server's challenge is signed with the key in the file."""
    operator, system, account, user = (
        key_pair(prefix)
        for prefix in (
            nkeys.PREFIX_BYTE_OPERATOR,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_USER,
        )
    )
    limits = {"subs": -1, "conn": -1, "leaf": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    operator_jwt = jwt({"name": "o", "nats": {"type": "operator", "version": 2}}, operator, operator)
    accounts = {
        keys.public_key.decode(): jwt(
            {"name": name, "nats": {"type": "account", "version": 2, "limits": {**limits, **more}}},
            operator,
            keys,
        )
        for name, keys, more in (("system", system, {}), ("a", account, storage))
    }
    user_jwt = jwt(
        {
            "name": "u",
            "nats": {
                "type": "user",
                "version": 2,
                "subs": -1,
                "data": -1,
                "payload": -1,
                "pub": {},
                "sub": {},
            },
        },
        account,
        user,
    )
    path = tmp_path / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    known = ", ".join(f"{name}: {token}" for name, token in accounts.items())
    config = (
        f"operator: {operator_jwt}\nsystem_account: {system.public_key.decode()}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {known} }}"
    )
    with running_server(config=config) as node:
        async with JetStreamStore.open(node.url, credentials=path) as store:
            await store.append_batch(events(1, 1))
            assert await store.last_seq() == 1
        with pytest.raises(StoreUnusable, match="cannot be read"):
            async with JetStreamStore.open(node.url, credentials=tmp_path / "none"):
                pass
        (tmp_path / "empty").write_text("nothing")
        with pytest.raises(StoreUnusable, match="hold no user JWT"):
            async with JetStreamStore.open(node.url, credentials=tmp_path / "empty"):
                pass


@contextmanager
def certificate(tmp_path):
    """Files of a certificate for localhost that signs itself."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    yield chain, key, context


async def test_tls(tmp_path):
    """An unknown authority is an error, and a known one is not."""
    with ExitStack() as stack:
        chain, key, context = stack.enter_context(certificate(tmp_path))
        config = f"tls {{ cert_file: {str(chain)!r}, key_file: {str(key)!r} }}"
        node = stack.enter_context(running_server(config=config))
        async with JetStreamStore.open(node.url, tls=context) as store:
            await store.append_batch(events(1, 500))
            assert len(await store.query(EventQuery())) == 500
        for servers in (node.url, node.url.replace("nats:", "tls:")):
            with pytest.raises(StoreError, match="TLS"):
                async with JetStreamStore.open(servers):
                    pass
