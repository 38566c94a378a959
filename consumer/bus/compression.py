"""Decompresses messages up to a size limit, because 3 kB can expand to gigabytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from consumer.bus.formats import Undecodable

#: Memory that an LZMA stream may demand for its dictionary.
_LZMA_MEMORY = 64 * 1024 * 1024


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _lzma() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


#: By the names that kombu writes into the header ``compression`` (``kombu.compression``).
_KNOWN: dict[str, Callable[[], _Decompressor]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), _lzma),
}

#: The first bytes of compressed messages; no JSON begins with them.
_MAGIC = {b"\x78": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "lzma"}


def decompress_unnamed(body: bytes, most: int) -> bytes:
    """Decompress a body whose first bytes show zlib, bzip2 or lzma; return any other body unchanged.

    :param most: largest result, in bytes
    :raises Undecodable: the body is damaged, or the result is too large
    """
    name = next((name for magic, name in _MAGIC.items() if body.startswith(magic)), None)
    return body if name is None else decompress(body, name, most)


def decompress(body: bytes, name: object, most: int) -> bytes:
    """Decompress a message's body.

    :param name: the message's header ``compression``
    :param most: largest result, in bytes
    :raises Undecodable: the compression is unknown, the body is damaged, or the result is too large
    """
    make = _KNOWN.get(name) if isinstance(name, str) else None
    if make is None:
        raise Undecodable(f"stackmend cannot decompress {str(name)[:40]!r}: use gzip, bz2 or lzma")
    stream = make()
    try:
        plain = stream.decompress(body, most + 1)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise Undecodable(f"decompression failed: {str(error)[:200]}") from None
    if len(plain) > most:
        raise Undecodable(f"the message has more than the limit of {most} bytes when decompressed")
    if not stream.eof:
        raise Undecodable("the compressed message is incomplete")
    return plain
