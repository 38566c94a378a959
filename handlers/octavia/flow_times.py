"""The longest time for which a flow of Octavia works without writing a row.

No flow works on a row that is unchanged for longer. Between two writes, a flow waits for a build slot, the boot, the amphora's
agent, a detached port, Nova and Neutron. Options of ``octavia.conf`` limit each wait. The longest time is the sum of these
limits.

If the agent never answers, the flow repeats the request ``connection_max_retries`` times. Each attempt takes the connection
timeout, the read timeout and two retry intervals.

Sources: ``octavia/common/config.py``, ``octavia/amphorae/drivers/haproxy/rest_api_driver.py`` (``request``),
``octavia/controller/worker/v2/tasks/retry_tasks.py``, ``octavia/controller/worker/v2/tasks/compute_tasks.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.access.service_files import ConfigError, ServiceFiles


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """Octavia's retry and timeout options, with Octavia's defaults; times in seconds."""

    build_active_retries: float = 120
    build_retry_interval: float = 5
    amp_active_retries: float = 30
    amp_active_wait_sec: float = 10
    connection_max_retries: float = 120
    connection_retry_interval: float = 5
    rest_request_conn_timeout: float = 10
    rest_request_read_timeout: float = 60
    port_detach_timeout: float = 300
    compute_max_retries: float = 15
    compute_retry_max: float = 10
    networking_max_retries: float = 15
    networking_retry_max: float = 10

    @property
    def longest_silence(self) -> float:
        """The longest time, in seconds, for which a working flow writes no row."""
        answer = self.rest_request_conn_timeout + self.rest_request_read_timeout
        return (
            self.build_active_retries * self.build_retry_interval
            + self.amp_active_retries * self.amp_active_wait_sec
            + (self.connection_max_retries + 1) * (answer + 2 * self.connection_retry_interval)
            + self.port_detach_timeout
            + self.compute_max_retries * self.compute_retry_max
            + self.networking_max_retries * self.networking_retry_max
        )

    @property
    def safe_age(self) -> float:
        """By default, a row that is unchanged for this number of seconds proves that no flow works on it."""
        return 2 * self.longest_silence


#: the fields of :class:`FlowTimes` by section; a prefix keeps options of one name apart
_SECTIONS = {
    "haproxy_amphora": (
        "build_active_retries",
        "build_retry_interval",
        "connection_max_retries",
        "connection_retry_interval",
        "rest_request_conn_timeout",
        "rest_request_read_timeout",
    ),
    "controller_worker": ("amp_active_retries", "amp_active_wait_sec"),
    "networking": ("port_detach_timeout", "networking_max_retries", "networking_retry_max"),
    "compute": ("compute_max_retries", "compute_retry_max"),
}


def flow_times(files: ServiceFiles) -> FlowTimes:
    """Read Octavia's retry and timeout options from its configuration files.

    :raises ConfigError: a value is not a number of 0 or more
    """
    found: dict[str, float] = {}
    for section, names in _SECTIONS.items():
        for name in names:
            option = name.removeprefix(f"{section}_")
            value = files.get(section, option)
            if value is not None:
                found[name] = _number(value, f"[{section}] {option} in {files}")
    return FlowTimes(**found)


def _number(value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{where} is not a number") from None
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{where} is not a number of 0 or more")
    return number


def age_or_default(given: float | None, times: FlowTimes, option: str) -> float:
    """Return ``given``, or :attr:`FlowTimes.safe_age` if ``given`` is None.

    :param given: the operator's value, in seconds
    :raises ConfigError: a flow can work for longer than ``given`` without a change to its rows
    """
    if given is None:
        return times.safe_age
    if given < times.longest_silence:
        raise ConfigError(
            f"{option} = {given:.0f} is too short: by the retries and timeouts of octavia.conf, a flow of Octavia may work for "
            f"{times.longest_silence:.0f} s without a change to its rows; write a longer time, or leave the option out"
        )
    return given
