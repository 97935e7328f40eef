"""Records of a TFRecord file, whose lengths are checked before memory is allocated."""

import functools
import struct

import numpy as np

_BLOCK = 128  # bytes
_SLAB = 2**16  # bytes whose checksums are looked up at once
_AT_ONCE = 2**20  # bytes that are read
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_MASK = 0xA282EAD8
_HEADER = struct.Struct("<QI")  # the length and its masked checksum
_FOOTER = struct.Struct("<I")


class Damaged(ValueError):
    """A record is damaged, so that the next one cannot be found."""


def records(file, limit):
    """Yields the records of an open file; None for one that is longer than the limit."""
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise Damaged(f"{len(header)} bytes where a length and its checksum begin")
        length, checksum = _HEADER.unpack(header)
        if checksum != _masked_crc(header[:8]):
            raise Damaged("a length with another checksum")
        size, record = _body(file, length, is_kept=length <= limit)
        footer = file.read(_FOOTER.size)
        if size < length or len(footer) < _FOOTER.size:
            raise Damaged(f"a length of {length} bytes, of which {size} follow")
        if record is not None and _FOOTER.unpack(footer)[0] != _masked_crc(record):
            raise Damaged("bytes with another checksum")
        yield record


def _body(file, length, is_kept):
    """Reads up to `length` bytes, without allocating them first; their number, and they."""
    blocks, left = [], length
    while left and (block := file.read(min(left, _AT_ONCE))):
        left -= len(block)
        if is_kept:
            blocks.append(block)
    if not is_kept:
        return length - left, None
    return length - left, blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _masked_crc(data):
    crc = _crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def _crc32c(data):
    """Computes CRC-32C; it is linear, so the checksums of a block's bytes add up."""
    ahead = len(data) % _BLOCK
    table, one, shifts = _tables()
    crc = 0xFFFFFFFF
    for byte in data[:ahead]:
        crc = one[(crc ^ byte) & 255] ^ (crc >> 8)
    for start in range(ahead, len(data), _SLAB):
        slab = np.frombuffer(data, np.uint8, min(_SLAB, len(data) - start), start)
        bits = table.take(slab.reshape(-1, _BLOCK) + _PLACES)
        for block in np.bitwise_xor.reduce(bits, axis=1).tolist():
            for shift in shifts:  # the state is added to the block's first four bytes
                block ^= shift[crc & 255]
                crc >>= 8
            crc = block
    return crc ^ 0xFFFFFFFF


_PLACES = 256 * np.arange(_BLOCK)[::-1]


@functools.cache
def _tables():
    """Returns tables of the checksums of each byte at each place from a block's end."""
    table = np.empty([_BLOCK, 256], np.uint32)
    table[0] = np.arange(256)
    for _ in range(8):
        table[0] = (table[0] >> 1) ^ np.where(table[0] & 1, np.uint32(_POLYNOMIAL), 0)
    for place in range(1, _BLOCK):
        table[place] = (table[place - 1] >> 8) ^ table[0, table[place - 1] & 255]
    return table.reshape(-1), table[0].tolist(), table[:-5:-1].tolist()
