"""The transport over TCP with mutual TLS: who is let in, and what the operator reads when somebody is not."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from raftcore.backends import tls
from raftcore.backends.tcp import TcpTransport
from raftcore.backends.tcp_options import TcpOptions, TlsFiles
from raftcore.errors import ConfigError
from raftcore.messages import SnapshotChunk
from raftcore.types import NO_LOG, NO_MEMBERSHIP, NO_VOTE, SnapshotMeta


@pytest.fixture(scope="module")
def authority():
    """The cluster's certificate authority."""
    return trustme.CA()


@pytest.fixture
def issue(authority, tmp_path):
    """Write the three files for a certificate that holds `name`; by the cluster's authority unless another is given."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def write(name, by=authority):
        certificate = by.issue_cert(name)
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        return TlsFiles(ca=f"{tmp_path}/ca.pem", certificate=f"{tmp_path}/{name}.pem", key=f"{tmp_path}/{name}.key")

    return write


def chunk(data):
    """A message with `data` in it."""
    return SnapshotChunk(NO_VOTE, 1, SnapshotMeta("s", NO_LOG, NO_MEMBERSHIP, NO_LOG), 0, data, True)


def test_nodes_with_certificates_of_the_cluster_talk(run, network, issue, message):
    """Messages of all sizes pass both ways, and a peer that restarts is found again."""
    large = chunk(bytes(range(256)) * 8000)

    async def main():
        async with network() as net:
            await net.start("n1", tls=issue("n1"))
            await net.start("n2", tls=issue("n2"))
            net.introduce("n1", "n2")
            await net.connected("n1", "n2")
            for one in (message(1), large, message(2)):
                net.transports["n1"].send("n2", one)
                net.transports["n2"].send("n1", one)
            for node in ("n1", "n2"):
                await net.ends[node].wait(lambda node=node: len(net.ends[node].got) == 3)
            await net.transports["n2"].stop()
            await net.ends["n1"].wait(lambda: not net.ends["n1"].is_up("n2"))
            first = net.ends["n2"].got
            await net.start("n2", address=net.transports["n2"].address, tls=issue("n2"))
            await net.connected("n1", "n2")
            return net.ends["n1"].got, first

    at_n1, at_n2 = run(main())

    assert [("n2", one) for one in (message(1), large, message(2))] == at_n1
    assert [("n1", one) for one in (message(1), large, message(2))] == at_n2


def test_a_certificate_of_another_authority_is_not_let_in(run, network, issue, message):
    """Both ends refuse; each dials and reads the reason."""

    async def main():
        async with network() as net:
            await net.start("n1", tls=issue("n1"))
            await net.start("n2", tls=issue("n2", trustme.CA()))
            net.introduce("n1", "n2")
            net.introduce("n2", "n1")
            for node, peer in (("n1", "n2"), ("n2", "n1")):
                await net.ends[node].wait(lambda node=node, peer=peer: net.ends[node].reasons(peer))
                net.transports[node].send(peer, message(1))
            return net.ends["n1"].reasons("n2"), net.ends["n2"].reasons("n1"), net.ends["n1"].got + net.ends["n2"].got

    at_n1, at_n2, got = run(main())

    assert any("certificate verify failed" in reason for reason in at_n1), at_n1
    assert at_n2[0].endswith("in the handshake; does its tls.ca hold the authority of this node's certificate?")
    assert [] == got


def test_a_certificate_of_another_node_is_not_let_in(run, network, issue, message):
    """A member can't pose as another one; the message says what the certificate should hold."""

    async def main():
        async with network() as net:
            await net.start("n1", tls=issue("n1"))
            await net.start("n2", tls=issue("n3"))
            net.introduce("n1", "n2")
            for node, peer in (("n1", "n2"), ("n2", "n1")):
                await net.ends[node].wait(lambda node=node, peer=peer: net.ends[node].reasons(peer))
                net.transports[node].send(peer, message(1))
            return (
                net.ends["n1"].reasons("n2")[0],
                net.ends["n2"].reasons("n1")[0],
                net.ends["n1"].got + net.ends["n2"].got,
                net.transports["n1"].counters()["refused"] > 0,
            )

    reason = "the certificate is not node 'n2''s; issue one with the subject alternative name DNS:n2 or URI:raftcore:n2"

    assert (reason, f"node 'n1' refuses: {reason}", [], True) == run(main())


@pytest.mark.parametrize("encrypted", ["n1", "n2"])
def test_one_end_without_tls_is_told_to_the_operator(run, network, issue, encrypted):
    """A cluster that is half way to TLS does not connect, and the dialling node says so."""

    async def main():
        async with network() as net:
            for node in ("n1", "n2"):
                await net.start(node, tls=issue(node) if node == encrypted else None, handshake_timeout_ms=500)
            net.introduce("n1", "n2")
            await net.ends["n1"].wait(lambda: net.ends["n1"].reasons("n2"))
            return net.ends["n1"].reasons("n2")[0], net.transports["n1"].counters(), net.transports["n2"].counters()

    reason, _, at_n2 = run(main())

    assert reason.startswith("can't connect to 127.0.0.1:")
    assert at_n2["bad_frames"] > 0 or encrypted == "n2"


def test_no_certificate_at_all_is_not_let_in(run, network, issue, raw_peer, authority):
    """A client that trusts the cluster but shows nothing itself gets no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    authority.configure_trust(context)

    async def main():
        async with network() as net:
            transport = await net.start("n1", tls=issue("n1"))
            host, port = transport.address.split(":")
            peer = raw_peer(*await asyncio.open_connection(host, int(port), ssl=context))
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await peer.read()
            peer.writer.close()
            return net.ends["n1"].events

    assert [] == run(main())


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"ca": "none.pem"}, r"tls.ca: can't read certificates from .*none.pem: .*No such file.*; name a PEM file"),
        ({"ca": "n1.key"}, r"tls.ca: can't read certificates from .*n1.key: "),
        ({"certificate": "none.pem"}, r"tls.certificate, tls.key: can't use .*none.pem with the key .*No such file"),
        ({"key": "n2.key"}, r"tls.certificate, tls.key: can't use .*n1.pem with the key .*n2.key: .*mismatch"),
        (
            {"key": "secret.key"},
            r"can't use .* with the key .*secret.key: .*; name a PEM certificate and its unencrypted",
        ),
    ],
)
def test_files_that_do_not_do_are_named(issue, recorder, tmp_path, files, complaint):
    """A missing or wrong file stops the start, with its path in the message; nothing asks on the terminal."""
    issue("n1")
    issue("n2")
    key = serialization.load_pem_private_key((tmp_path / "n1.key").read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "secret.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    options = TcpOptions(tls=TlsFiles(**{"ca": "ca.pem", "certificate": "n1.pem", "key": "n1.key"} | files))
    transport = TcpTransport(options, "127.0.0.1:0", directory=tmp_path)

    with pytest.raises(ConfigError, match=complaint):
        asyncio.run(transport.start(recorder("n1")))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((("DNS", "n1"),), True),
        ((("DNS", "n2"), ("DNS", "n1")), True),
        ((("URI", "raftcore:n1"),), True),
        ((("URI", "n1"), ("IP Address", "n1"), ("email", "n1")), False),
        ((("DNS", "*"), ("DNS", "N1"), ("DNS", "n1.example")), False),
        ((), False),
    ],
)
def test_a_certificate_names_a_node_exactly(names, expected):
    """As a DNS name or as a URI of raftcore's, letter by letter; wildcards mean nothing here."""
    assert expected == tls.names_node({"subjectAltName": names}, "n1")


def test_a_certificate_without_alternative_names_names_nobody():
    """The subject's common name is not looked at."""
    assert not tls.names_node({"subject": ((("commonName", "n1"),),)}, "n1")
