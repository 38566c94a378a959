"""Computes when Octavia rotates a certificate.

Once in ``cert_interval``, a round of octavia-housekeeping sets ``cert_busy`` of every amphora whose certificate ends within
``cert_expiry_buffer``. Then a few threads rotate these certificates. A rotation asks the amphora's agent twice. It always ends
with a write into the amphora's row: a success resets ``cert_busy``, a failure sets ERROR.

Sources: ``octavia/controller/housekeeping/house_keeping.py`` (CertRotation), ``get_cert_expiring_amphora`` in
``octavia/db/repositories.py``, ``cert_rotate_amphora_flow`` in ``octavia/controller/worker/v2/flows/amphora_flows.py``,
``upload_cert_amp`` in ``octavia/amphorae/drivers/haproxy/rest_api_driver.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.access.service_files import ConfigError, ServiceFiles

#: Octavia's defaults (``octavia/common/config.py``)
_INTERVAL = 3600
_BUFFER = 1_209_600


@dataclass(frozen=True, slots=True)
class Rotation:
    """:param interval: seconds between two rounds
    :param buffer: seconds before the end of a certificate at which a round rotates it
    :param longest: seconds within which one rotation writes its amphora's row
    """

    interval: float
    buffer: float
    longest: float

    @property
    def overdue(self) -> float:
        """Seconds within which Octavia must begin to rotate a certificate inside ``buffer``, even after a slow round."""
        return self.longest + 2 * self.interval


def rotation(files: ServiceFiles, longest: float) -> Rotation:
    """Read the options of rotations from Octavia's configuration files.

    :param longest: as in :class:`Rotation`
    :raises ConfigError: a value is not a number
    """
    return Rotation(
        _seconds(files, "cert_interval", _INTERVAL), _seconds(files, "cert_expiry_buffer", _BUFFER), longest
    )


def _seconds(files: ServiceFiles, name: str, default: int) -> float:
    value = files.get("house_keeping", name)
    if value is None:
        return default
    if not value.isdecimal():
        raise ConfigError(f"{files}: [house_keeping] {name} = {value} is not a number of seconds")
    return float(value)
