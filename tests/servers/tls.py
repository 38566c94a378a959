"""Certificates for the private servers, of authorities that nobody else knows."""

from __future__ import annotations

from pathlib import Path

import trustme

from tests.servers.server import HOST, Certificate


class Authority:
    """Signs certificates; those of two authorities have nothing to do with each other."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._authority = trustme.CA(organization_name=name)
        #: its own certificate
        self.file = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def certify(self, *hosts: str) -> Certificate:
        """Sign a certificate for these names and addresses; for the private servers' own if not given."""
        signed = self._authority.issue_cert(*(hosts or (HOST,)))
        chain, key = (self._folder / f"{self._name}-server.{ending}" for ending in ("pem", "key"))
        chain.write_bytes(b"".join(blob.bytes() for blob in signed.cert_chain_pems))
        key.write_bytes(signed.private_key_pem.bytes())
        return Certificate(chain, key, self.file)
