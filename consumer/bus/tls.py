"""TLS to a broker: ``[oslo_messaging_rabbit] ssl*`` as py-amqp wants it, and what to write when it fails.

Set as oslo.messaging sets it, with one difference: each of several hosts must have a certificate for its own name.
Without ``ssl_ca_file`` the authorities of the system count, for any host name; what they did not sign is refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from consumer.conf.bus import UnusableURL

RABBIT = "oslo_messaging_rabbit"

_VERSIONS = {
    "tlsv1": "PROTOCOL_TLSv1",
    "sslv23": "PROTOCOL_SSLv23",
    "sslv2": "PROTOCOL_SSLv2",
    "sslv3": "PROTOCOL_SSLv3",
    "tlsv1_1": "PROTOCOL_TLSv1_1",
    "tlsv1_2": "PROTOCOL_TLSv1_2",
}
#: py-amqp's names of the files, with the options that give them
_FILES = {"ca_certs": "ssl_ca_file", "certfile": "ssl_cert_file", "keyfile": "ssl_key_file"}


def parameters(hostname: str | None, options: Mapping[str, Any]) -> dict[str, Any] | bool:
    """Return py-amqp's TLS parameters: ``ssl_ca_file`` is what makes names be checked.

    :param options: ``[oslo_messaging_rabbit]``
    :raises UnusableURL: when this Python does not know the protocol version
    """
    if not options["ssl"]:
        return False
    found = {name: options[option] for name, option in _FILES.items() if options[option]}
    if options["ssl_version"]:
        protocol = getattr(ssl, _VERSIONS.get(options["ssl_version"].lower(), ""), None)
        if protocol is None:
            raise UnusableURL(f"[{RABBIT}] ssl_version = {options['ssl_version']!r} is not known to this Python")
        found["ssl_version"] = protocol
    if options["ssl_ca_file"]:
        found |= {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": hostname}
    return found or True


def advice(error: BaseException, given: Mapping[str, Any] | bool) -> str:
    """Return which option to look at, after a failure that TLS can be the reason of; nothing after another one.

    :param given: what :func:`parameters` returned
    """
    files = given if isinstance(given, Mapping) else {}
    said = ", ".join(f"{option} = {files[name]}" for name, option in _FILES.items() if files.get(name))
    if isinstance(error, ssl.SSLCertVerificationError):
        said = said or "ssl_ca_file is not set, so the system's authorities count"
        return f"; its certificate must be signed by the authority in [{RABBIT}] ssl_ca_file, for this host ({said})"
    if isinstance(error, ssl.SSLError):
        return f"; see [{RABBIT}] ssl, {said or 'ssl_ca_file'}: does it speak TLS on this port, are the files right?"
    if given and isinstance(error, FileNotFoundError | PermissionError):
        return f"; a file cannot be read: [{RABBIT}] {said}"
    if not given and isinstance(error, ConnectionResetError):
        return f"; if it speaks TLS on this port, set [{RABBIT}] ssl = true and ssl_ca_file"
    return ""
