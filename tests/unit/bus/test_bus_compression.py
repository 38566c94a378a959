"""Decompression within a bound."""

import bz2
import lzma
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from consumer.bus.compression import decompress
from consumer.bus.formats import Undecodable

MOST = 1024 * 1024
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
}
each = pytest.mark.parametrize(("name", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)


@each
def test_what_was_compressed_comes_back(name: str, compress: Callable[[bytes], bytes]) -> None:
    assert decompress(compress(b"x" * MOST), name, MOST) == b"x" * MOST


@each
def test_a_bomb_takes_no_more_memory_than_the_limit(name: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(b"x" * 100 * MOST)
    tracemalloc.start()
    try:
        with pytest.raises(Undecodable, match="more than the limit"):
            decompress(bomb, name, MOST)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 * MOST


def test_an_lzma_stream_cannot_demand_gigabytes() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1024 * MOST}]
    with pytest.raises(Undecodable, match=r"[Mm]emory"):
        decompress(lzma.compress(b"x", filters=filters), "application/x-lzma", MOST)


@each
def test_a_damaged_or_incomplete_stream_is_undecodable(name: str, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(bytes(range(256)) * 40)
    with pytest.raises(Undecodable):
        decompress(whole[:-8], name, MOST)
    with pytest.raises(Undecodable):
        decompress(b"garbage" + whole, name, MOST)


@pytest.mark.parametrize("name", ["application/x-brotli", "", 7, b"gzip", None])
def test_an_unknown_compression_is_undecodable(name: object) -> None:
    with pytest.raises(Undecodable, match="gzip"):
        decompress(b"x", name, MOST)
