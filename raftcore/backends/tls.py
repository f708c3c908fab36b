"""Mutual TLS between nodes: both ends show a certificate of the cluster's authority that names the node."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raftcore.errors import ConfigError
from raftcore.types import NodeId

if TYPE_CHECKING:
    from raftcore.backends.tcp_options import TlsFiles


def contexts(files: TlsFiles, directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts for accepting and for dialling. Raises `ConfigError` when a file can't be used."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files, directory), _context(ssl.PROTOCOL_TLS_CLIENT, files, directory)


def _context(protocol: ssl._SSLMethod, files: TlsFiles, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The host's name is not looked at: a peer proves which *node* it is, wherever it runs (`names_node`).
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    ca, certificate, key = (directory / Path(name).expanduser() for name in (files.ca, files.certificate, files.key))
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise ConfigError(f"tls.ca: can't read certificates from {ca}: {error}; name a PEM file") from error
    try:
        # An empty password makes an encrypted key an error; without one OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise ConfigError(
            f"tls.certificate, tls.key: can't use {certificate} with the key {key}: {error}; "
            "name a PEM certificate and its unencrypted private key"
        ) from error
    return context


def names_node(certificate: Mapping[str, Any], node: NodeId) -> bool:
    """Whether a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) was issued for `node`."""
    names = certificate.get("subjectAltName", ())
    return ("DNS", node) in names or ("URI", f"raftcore:{node}") in names
