"""Decoded lines of text files, gzipped or not."""

import codecs
import gzip
import re
import zlib

from tfembloss.data.rows import BadRow

LINE_FEED = ord("\n")
HEAD = 20  # rows that are checked before reading begins
_UTF8_BOM = codecs.BOM_UTF8
_NO_ROWS = (b"\n", b"\r\n", _UTF8_BOM, _UTF8_BOM + b"\n", _UTF8_BOM + b"\r\n")
_OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def readable(path, unit, rows):
    """Yields numbered rows; a damaged gzip file is an error that cannot be skipped."""
    number = 0
    try:
        for number, row in rows:
            yield number, row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}, after {unit} {number}: Expected a whole gzip file. Received one that "
            f"is truncated or damaged ({error}). Make or fetch it again."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path}, after {unit} {number}: Expected a file that can be read. Received: "
            f"{error.strerror}. It may have been removed or moved since it was given."
        ) from error


def open_packed(path):
    """Opens a file, decompressed if it is gzipped."""
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


class NoRows(bytes):
    """Empty lines, which are text only between quotes."""


_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")


def _num_empty(ahead):
    """Returns the number of bytes of the empty lines at the beginning."""
    ends = ahead[: len(ahead) - len(ahead.lstrip(b"\r\n"))]
    if ends.count(b"\r") == ends.count(b"\r\n"):
        return len(ends)
    return _EMPTY_LINES.match(ends).end()  # slower


def lines_of(path, limit):
    """Yields lines with their ends; of one longer than the limit, limit + 1 bytes."""
    with open_packed(path) as file:
        line = file.readline(limit + 1 + len(_UTF8_BOM)).removeprefix(_UTF8_BOM)
        if line.startswith(_OTHER_BOMS):
            raise ValueError(
                f"{path}, line 1, column 1: Expected UTF-8. Received a byte order mark of "
                "UTF-16 or UTF-32. Write the file as UTF-8."
            )
        line = line or file.readline(limit + 1)
        while line:
            if len(line) < 6 and line in _NO_ROWS:
                yield NoRows(line + file.read(_num_empty(file.peek(1))))
            else:
                yield line
            while len(line) > limit and not line.endswith(b"\n"):  # skips the rest of it
                line = file.readline(limit + 1)
            line = file.readline(limit + 1)


def without_end(line):
    """Returns a line without its line end."""
    return line.removesuffix("\n").rstrip("\r")


def too_long(limit):
    """Returns the BadRow of a row that is longer than the limit."""
    return BadRow(
        f"Expected a row of at most max_row_bytes={limit}. Received a longer one. Shorten "
        "it or give a larger max_row_bytes."
    )


_QUOTED = re.compile(rb'"[^"]*"?')


def decoded(row, limit, quotes=False):
    """Decodes a row, without a byte order mark, which a concatenated file may have."""
    if row[-1] != LINE_FEED and b"\r" in row[:-1]:
        plain = _QUOTED.sub(lambda text: b" " * len(text[0]), row) if quotes else row
        if (place := plain.find(b"\r", 0, -1)) >= 0:
            raise BadRow(
                "Expected lines that end in \\n or \\r\\n. Received a \\r alone in column "
                f"{place + 1}. Write line ends as \\n; a \\r in a field belongs in quotes."
            )
    if len(row) > limit:
        raise too_long(limit)
    try:
        return row.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        before = row[: error.start].decode()
        column = len(before) - before.rfind("\n")
        raise BadRow(
            f"Expected UTF-8. Received the byte 0x{row[error.start]:02x} in column "
            f"{column}. Write the file as UTF-8.",
            before.count("\n"),
        ) from None
