"""TLS to a broker: converts ``[oslo_messaging_rabbit] ssl*`` for py-amqp, and gives advice after a failure.

TLS works as in oslo.messaging, with two differences. With ``ssl_ca_file``, each host's certificate must name this host, even
if the URL has several hosts. Without ``ssl_ca_file``, an authority that the system knows must have signed the certificate,
which can name any host. In that case, oslo.messaging accepts any certificate if ``ssl_version`` is set.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from consumer.conf.bus import UnusableURL
from handlers.base import irregular

RABBIT = "oslo_messaging_rabbit"

_VERSIONS = {
    "tlsv1": "PROTOCOL_TLSv1",
    "sslv23": "PROTOCOL_SSLv23",
    "sslv2": "PROTOCOL_SSLv2",
    "sslv3": "PROTOCOL_SSLv3",
    "tlsv1_1": "PROTOCOL_TLSv1_1",
    "tlsv1_2": "PROTOCOL_TLSv1_2",
}
#: py-amqp's parameter -> our option
_FILES = {"ca_certs": "ssl_ca_file", "certfile": "ssl_cert_file", "keyfile": "ssl_key_file"}


def parameters(hostname: str | None, options: Mapping[str, Any]) -> dict[str, Any] | bool:
    """Return the TLS parameters for py-amqp: a dictionary, True for py-amqp's defaults, or False for no TLS.

    :raises UnusableURL: this Python does not support ``ssl_version``, or an option names no regular file
    """
    if not options["ssl"]:
        return False
    found = {name: options[option] for name, option in _FILES.items() if options[option]}
    for option in _FILES.values():
        if options[option] and (reason := irregular(options[option])):
            raise UnusableURL(f"[{RABBIT}] {option} = {options[option]} is {reason}")
    if options["ssl_version"]:
        protocol = getattr(ssl, _VERSIONS.get(options["ssl_version"].lower(), ""), None)
        if protocol is None:
            raise UnusableURL(f"this Python does not support [{RABBIT}] ssl_version = {options['ssl_version']!r}")
        found |= {"ssl_version": protocol, "cert_reqs": ssl.CERT_REQUIRED}  # py-amqp's default would be CERT_NONE
    if options["ssl_ca_file"]:
        found |= {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": hostname}
    return found or True


def advice(error: BaseException, given: Mapping[str, Any] | bool) -> str:
    """If TLS might have caused a failure, return a clause that names the options to check; otherwise an empty text.

    :param given: the result of :func:`parameters`
    """
    files = given if isinstance(given, Mapping) else {}
    set_files = ", ".join(f"{option} = {files[name]}" for name, option in _FILES.items() if files.get(name))
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = set_files or "ssl_ca_file is not set, so the system's authorities count"
        return f"; the authority in [{RABBIT}] ssl_ca_file must have signed its certificate for this host ({trusted})"
    if isinstance(error, ssl.SSLError):
        return f"; check that this port uses TLS, and check [{RABBIT}] ssl, {set_files or 'ssl_ca_file'}"
    if given and isinstance(error, FileNotFoundError | PermissionError):
        return f"; cannot read a file of [{RABBIT}] {set_files}"
    if not given and isinstance(error, ConnectionResetError):
        return f"; if this port uses TLS, set [{RABBIT}] ssl = true and ssl_ca_file"
    return ""
