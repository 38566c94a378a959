"""A variant of py-amqp's connection that makes fewer system calls, and that survives unreadable messages.

One system call reads many frames.

In py-amqp, a routing key or property that is not UTF-8 ends the connection. RabbitMQ then sends the message again.
In this variant, the message records why its properties are unreadable, and a routing key's invalid bytes are replaced.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct
from typing import Any

from amqp import Message, spec
from amqp.exceptions import UnexpectedFrame
from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

#: Type, channel and payload size. The payload and the octet _END follow.
_HEADER = Struct(">BHI")
_END = 0xCE

#: Bytes per read; about 17 notifications.
_PIECE = 64 * 1024

#: Errors that leave the connection intact, as in py-amqp.
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT, errno.EWOULDBLOCK})

_Frame = tuple[int, int, bytes]


class _ReadAhead:
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._ahead = b""
        self._at = 0

    def frame_at_hand(self) -> _Frame | None:
        ahead, at = self._ahead, self._at
        if len(ahead) < at + _HEADER.size:
            return None
        kind, channel, size = _HEADER.unpack_from(ahead, at)
        start = at + _HEADER.size
        end = start + size
        if len(ahead) <= end:
            return None
        if ahead[end] != _END:
            raise UnexpectedFrame(f"a frame ends in {ahead[end]:#04x} instead of {_END:#04x}")
        self._at = end + 1
        return kind, channel, ahead[start:end]

    def read_frame(self) -> _Frame:
        while (frame := self.frame_at_hand()) is None:
            piece = self._receive()
            self._ahead, self._at = self._ahead[self._at :] + piece, 0
        return frame

    def _receive(self) -> bytes:
        wire: Any = self
        try:
            piece: bytes = wire.sock.recv(_PIECE)
            if not piece:
                raise ConnectionResetError("the broker closed the connection")
        except TimeoutError as error:
            if error.errno is not None:  # ETIMEDOUT of the network, not the socket's timeout
                wire.connected = False
            raise
        except OSError as error:
            wire.connected = wire.connected and error.errno in _PASSING
            raise
        return piece


class _TCP(_ReadAhead, TCPTransport):  # type: ignore[misc]
    pass


class _TLS(_ReadAhead, SSLTransport):  # type: ignore[misc]
    pass


class _Received(Message):  # type: ignore[misc]
    """:param method: the ids (class, method) of the frame that announced the message
    :param most: how many bytes of the body to keep; ``body_size`` counts all bytes
    """

    def __init__(self, method: tuple[int, int], arguments: bytes, most: int) -> None:
        super().__init__(frame_method=method, frame_args=arguments)
        #: why the properties cannot be read; empty when they can
        self.unreadable = ""
        self._left = most

    def _load_properties(self, class_id: int, data: bytes, offset: int) -> int:
        try:
            return int(super()._load_properties(class_id, data, offset))
        except Exception as error:  # each kind of damage raises another one
            self.properties: dict[str, Any] = {}
            self.unreadable = f"the properties cannot be read: {type(error).__name__}: {str(error)[:200]}"
            return len(data)

    def inbound_body(self, data: bytes) -> None:
        self.body_received += len(data)
        if self._left > 0:
            self._pending_chunks.append(data[: self._left])
            self._left -= len(data)
        if self.body_received >= self.body_size:
            self.body = b"".join(self._pending_chunks)
            self._pending_chunks.clear()
            self.ready = True


_METHOD, _CONTENT_HEADER, _CONTENT_BODY, _HEARTBEAT = 1, 2, 3, 8
_WITH_CONTENT = frozenset({spec.Basic.Return, spec.Basic.Deliver, spec.Basic.GetOk})
_SIGNATURE = Struct(">HH")


class _Assembler:
    """Makes :class:`_Received` messages out of frames, like py-amqp's ``method_framing.frame_handler``."""

    def __init__(self, connection: Any, callback: Callable[..., object]) -> None:
        self._connection = connection
        self._callback = callback
        self._begun: dict[int, _Received] = {}

    def __call__(self, frame: _Frame) -> bool:
        kind, channel, payload = frame
        self._connection.bytes_recv += 1
        if kind == _HEARTBEAT:
            return False
        message = self._begun.get(channel)
        if message is None and kind == _METHOD:
            signature = _SIGNATURE.unpack_from(payload)
            if signature not in _WITH_CONTENT:
                self._callback(channel, signature, payload, None)
                return True
            self._begun[channel] = _Received(signature, payload, self._connection.max_body)
            return False
        if message is None or kind not in (_CONTENT_HEADER, _CONTENT_BODY):
            raise UnexpectedFrame(f"a frame of type {kind} arrived out of order")
        read = message.inbound_header if kind == _CONTENT_HEADER else message.inbound_body
        read(payload)
        if not message.ready:
            return False
        del self._begun[channel]
        self._callback(channel, message.frame_method, message.frame_args, message)
        return True


_TAG_AND_FLAGS = Struct(">QB")


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end


class _Channel(pyamqp.Channel):
    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        if method_sig != spec.Basic.Deliver or self.is_closing:
            super().dispatch_method(method_sig, payload, content)
            return
        consumer, at = _name(payload, _SIGNATURE.size)
        tag, redelivered = _TAG_AND_FLAGS.unpack_from(payload, at)
        exchange, at = _name(payload, at + _TAG_AND_FLAGS.size)
        routing_key, _end = _name(payload, at)
        self._on_basic_deliver(consumer, tag, bool(redelivered), exchange, routing_key, content)


class _Connection(pyamqp.Connection):
    """A connection that keeps at most the first ``max_body`` bytes of a message's body."""

    Channel = _Channel

    def __init__(self, *arguments: Any, max_body: int, **named: Any) -> None:
        super().__init__(*arguments, frame_handler=_Assembler, **named)
        self.max_body = max_body

    def Transport(  # noqa: N802 - py-amqp's name
        self,
        host: str,
        connect_timeout: float,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        **named: Any,
    ) -> _ReadAhead:
        named |= {"read_timeout": read_timeout, "write_timeout": write_timeout}
        return (_TLS if ssl else _TCP)(host, connect_timeout=connect_timeout, ssl=ssl, **named)

    def blocking_read(self, timeout: float | None = None) -> Any:
        frame = self.transport.frame_at_hand()
        if frame is None:
            return super().blocking_read(timeout)
        return self.on_inbound_frame(frame)


class Transport(pyamqp.Transport):
    Connection = _Connection
