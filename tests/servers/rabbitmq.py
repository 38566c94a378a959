"""A private RabbitMQ broker."""

from __future__ import annotations

import os
import re
import socket
import ssl
import uuid
from pathlib import Path
from urllib.parse import quote

from tests.servers import packages
from tests.servers.server import (
    HOST,
    PASSWORD,
    USER,
    Certificate,
    Process,
    Server,
    clean_environment,
    free_port,
    run,
    wait_for,
)

_CONFIGURATION = f"""
default_user = {USER}
default_pass = {PASSWORD}
default_vhost = /
loopback_users = none
log.console = true
log.console.level = info
log.file = false
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MB
collect_statistics_interval = 60000
"""

#: how many virtual hosts are made at once
_TOGETHER = 10


class RabbitMQ(Server):
    """A broker with a node name, a cookie and a port mapper (epmd) of its own.

    The port mapper of the machine is shared by all Erlang programs and outlives them; a private
    one goes away with the broker. Passive schedulers of the Erlang machine do not spin: tests
    run next to it on few cores.

    :param tls: speak nothing but TLS, with this certificate
    :param epmd_port: the port of a port mapper that others share and end; None for a private one
    """

    name = "rabbitmq"

    def __init__(self, folder: Path, tls: Certificate | None = None, epmd_port: int | None = None) -> None:
        super().__init__(folder)
        self._tls = tls
        self._shares_epmd = epmd_port is not None
        programs = packages.find("rabbitmq-server", "rabbitmq-server").parent
        self._server = programs / "rabbitmq-server"
        self._ctl = programs / "rabbitmqctl"
        self._epmd_program = packages.find("epmd", "rabbitmq-server")
        self._epmd_port = epmd_port or free_port()
        self._dist_port = free_port()
        self._epmd: Process | None = None
        self._fresh: list[str] = []
        self._used: list[str] = []

    def url(self, vhost: str = "/") -> str:
        """The address for kombu and other AMQP clients."""
        return f"amqp://{self._authority}/{quote(vhost, safe='')}"

    def transport_url(self, vhost: str = "/") -> str:
        """The address as OpenStack services write it."""
        return f"rabbit://{self._authority}/{quote(vhost, safe='')}"

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl; its output."""
        return run([self._ctl, "-q", "-n", self.node, *arguments], self._environment)

    def add_vhost(self, name: str) -> None:
        """Create a virtual host in which the user may do everything.

        Both steps in one call: each start of rabbitmqctl boots an Erlang machine.
        """
        self.ctl("eval", f"{_adding(name)}.")

    def fresh_vhost(self) -> str:
        """Return the name of an empty virtual host for one test; the call for the next test may delete it.

        One call of rabbitmqctl makes several, and deletes those that were used.
        """
        if not self._fresh:
            made = [f"test-{uuid.uuid4().hex[:12]}" for _ in range(_TOGETHER)]
            steps = [*map(_deleting, self._used), *map(_adding, made)]
            self.ctl("eval", f"{', '.join(steps)}.")
            self._fresh, self._used = made, []
        self._used.append(self._fresh.pop())
        return self._used[-1]

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host, its queues and the connections to it."""
        self.ctl("delete_vhost", name)

    def prepare(self) -> None:
        (self.folder / "rabbitmq.conf").write_text(_CONFIGURATION + self._listeners() + self._more())
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").write_text("")

    def _more(self) -> str:
        """Return further lines of the configuration."""
        return ""

    def _listeners(self) -> str:
        if self._tls is None:
            return f"listeners.tcp.default = {HOST}:{self.port}\n"
        return (
            f"listeners.tcp = none\nlisteners.ssl.default = {HOST}:{self.port}\n"
            f"ssl_options.cacertfile = {self._tls.authority}\nssl_options.certfile = {self._tls.chain}\n"
            f"ssl_options.keyfile = {self._tls.key}\nssl_options.verify = verify_none\n"
        )

    def spawn(self) -> Process:
        if not self._shares_epmd and (self._epmd is None or not self._epmd.alive):
            self._epmd = Process(
                [self._epmd_program, "-port", str(self._epmd_port), "-address", HOST],
                self._environment,
                self.folder / "epmd.log",
            )
            wait_for(lambda: listens(self._epmd_port), 10, "start of epmd")
        return Process([self._server], self._environment, self.log)

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as plain, self._wrapped(plain) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        if self._tls is None:
            return plain
        return ssl.create_default_context(cafile=self._tls.authority).wrap_socket(plain, server_hostname=HOST)

    def stop(self) -> None:
        super().stop()
        self._end_epmd()

    def kill(self) -> None:
        super().kill()
        self._end_epmd()

    def _end_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd = None

    @property
    def _kernel(self) -> str:
        """Further arguments of the Erlang machine."""
        return ""

    @property
    def _authority(self) -> str:
        return f"{USER}:{PASSWORD}@{HOST}:{self.port}"

    @property
    def node(self) -> str:
        """The name of its Erlang node."""
        return f"stackmend-{self.port}@localhost"

    @property
    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        # With these, RabbitMQ listens without TLS whatever its file says.
        plain = {} if self._tls else {"RABBITMQ_NODE_IP_ADDRESS": HOST, "RABBITMQ_NODE_PORT": str(self.port)}
        return clean_environment(
            **plain,
            HOME=folder,
            ERL_EPMD_PORT=str(self._epmd_port),
            ERL_EPMD_ADDRESS=HOST,
            RABBITMQ_NODENAME=self.node,
            RABBITMQ_BASE=folder,
            RABBITMQ_CONF_ENV_FILE=f"{folder}/env.conf",
            RABBITMQ_CONFIG_FILE=f"{folder}/rabbitmq.conf",
            RABBITMQ_ADVANCED_CONFIG_FILE=f"{folder}/advanced.config",
            RABBITMQ_GENERATED_CONFIG_DIR=f"{folder}/generated",
            RABBITMQ_ENABLED_PLUGINS_FILE=f"{folder}/enabled_plugins",
            RABBITMQ_MNESIA_BASE=f"{folder}/data",
            RABBITMQ_LOG_BASE=f"{folder}/log",
            RABBITMQ_PID_FILE=f"{folder}/rabbitmq.pid",
            RABBITMQ_DIST_PORT=str(self._dist_port),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=(
                f"-start_epmd false +S {min(2, os.cpu_count() or 1)} +sbwt none +sbwtdcpu none"
                f" +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}{self._kernel}"
            ),
            RABBITMQ_CTL_ERL_ARGS="-start_epmd false +S 1 +sbwt none",
        )


def _adding(vhost: str) -> str:
    """Return the Erlang expressions that create a virtual host in which the user may do everything."""
    name, user = _binary(vhost), _binary(USER)
    return (
        f"rabbit_vhost:add({name}, {user}), rabbit_auth_backend_internal:set_permissions({user}, {name},"
        f' <<".*">>, <<".*">>, <<".*">>, {user})'
    )


def _deleting(vhost: str) -> str:
    """Return the Erlang expression that deletes a virtual host, its queues and the connections to it."""
    return f"rabbit_vhost:delete({_binary(vhost)}, {_binary(USER)})"


def _binary(text: str) -> str:
    """A name as an Erlang binary."""
    if not re.fullmatch(r"[\w./-]+", text, re.ASCII):
        raise ValueError(f"not a name for a virtual host: {text!r}")
    return f'<<"{text}">>'


def listens(port: int) -> bool:
    """Whether a process listens on a port of loopback."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
