from __future__ import annotations

from handlers.access.service_files import ServiceFiles

GROUP = "oslo_messaging_rabbit"

TLS_OPTIONS = (
    "ssl",
    "ssl_version",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
)


def tls_options(files: ServiceFiles) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name in TLS_OPTIONS if (value := files.get(GROUP, name)) is not None)
