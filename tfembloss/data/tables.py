"""Rows of fields between delimiters, and the search for a file's delimiter."""

import collections
import itertools
import re

from tfembloss.data.headers import Header
from tfembloss.data.lines import (
    HEAD,
    NoRows,
    decoded,
    lines_of,
    readable,
    without_end,
)
from tfembloss.data.rows import BadRow, short


class Table:
    """Rows of fields between delimiters."""

    unit = "line"

    def __init__(self, path, fields, columns, header, quotes, max_row_bytes, delimiter):
        self.path = path
        self.quotes = quotes
        self.max_row_bytes = max_row_bytes
        self.delimiter = delimiter
        self.names = columns or fields
        character = re.escape(delimiter)
        self.cell = re.compile(rf'"((?:[^"]++|"")*+)"|([^"{character}]*+)')
        rows = readable(path, self.unit, self._lists())
        self.head = list(itertools.islice(rows, HEAD))
        if delimiter == "\n":  # each line is one text
            header = bool(header)
        self.header = Header([row for _, row in self.head], fields, columns, header)
        self.first = self.head[0][1] if self.head else []
        self.expected = self.header.names or fields

    def num_fitting(self):
        """Returns how many of the first rows have the expected fields."""
        if self.header.is_missing:
            return 0
        expected = self.first if self.header.problem else self.expected
        rows = [row for _, row in self.head if isinstance(row, list)]
        return sum(len(row) == len(expected) for row in rows)

    def check_header(self):
        """Raises an error if something is wrong with the header."""
        if self.header.problem:
            between = "" if self.delimiter == "\n" else f", between {self.delimiter!r}"
            raise ValueError(
                f"{self.path}, line {self.head[0][0]}{between}: {self.header.problem}"
            )

    def rows(self):
        """Yields numbered rows: their cells, or a BadRow."""
        for number, row in self.header.skipped(self.path, self._lists()):
            yield number, self._cells(row)

    def _cells(self, row):
        if isinstance(row, BadRow):
            return row
        if len(row) != len(self.expected):
            return BadRow(
                f"Expected {len(self.expected)} fields ({', '.join(self.expected)}) "
                f"between {self.delimiter!r}. Received {len(row)}: {short(row)}. Enclose a "
                "field that contains the delimiter in quotes; pass the names in a header "
                "as columns=."
            )
        return row if self.header.places is None else self.header.picked(row)

    def _lists(self):
        """Yields the line number and the list of all fields of each row, or a BadRow."""
        lines = lines_of(self.path, self.max_row_bytes)
        ahead = collections.deque()  # lines that were read to find a closing quote
        number = 1  # of the row's first line
        while ahead or (line := next(lines, None)):
            if not ahead:
                ahead.append(line)
            if type(ahead[0]) is NoRows:
                number += ahead.popleft().count(b"\n")
                continue
            may_go_on = self.quotes and b'"' in ahead[0]
            count = self._count_lines(ahead, lines) if may_go_on else 1
            row = ahead[0] if count == 1 else b"".join(itertools.islice(ahead, count))
            try:
                row = self._split(row)
            except BadRow as error:
                row = error
            yield number, row
            if count == 1:
                ahead.popleft()
                number += 1
                continue
            end = None
            if isinstance(row, _BadQuote):
                end = number + row.lines_below + 1  # the other lines may be rows
            for _ in range(count):
                number += ahead.popleft().count(b"\n") or 1
                if number == end:
                    break

    def _count_lines(self, ahead, lines):
        """Returns how many lines the row has: up to where the number of quotes is even."""
        is_open, size, num_ahead = False, 0, len(ahead)
        for count, line in enumerate(itertools.chain(ahead, lines), 1):
            if count > num_ahead:
                ahead.append(line)
            size += len(line)
            is_open ^= line.count(b'"') % 2 == 1
            if not is_open or size > self.max_row_bytes:
                break
        return count

    def _split(self, row):
        """Splits a row into all of its fields."""
        is_quoted = self.quotes and b'"' in row
        try:
            text = without_end(decoded(row, self.max_row_bytes, self.quotes))
        except BadRow:
            if is_quoted:  # an unbalanced quote is the more helpful error
                self._unquoted(without_end(row.decode(errors="replace")))
            raise
        return self._unquoted(text) if is_quoted else text.split(self.delimiter)

    def _unquoted(self, text):
        fields, start = [], 0
        while True:
            match = self.cell.match(text, start)
            quoted, plain = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            end = match.end()
            if end == len(text):
                return fields
            if text[end] != self.delimiter:
                raise self._bad_quote(text, start, quoted)
            start = end + 1

    def _bad_quote(self, text, start, quoted):
        before = text[:start]
        if quoted is not None:
            what = "text after the closing quote"
        elif text[start] == '"':
            what = f"a quote that does not close within max_row_bytes={self.max_row_bytes}"
        else:
            what = "a quote within a field that does not begin with one"
        return _BadQuote(
            f'Expected a field in quotes, with each " in it doubled, or one without. '
            f"Received {what} in column {start - before.rfind(chr(10))}: "
            f"{short(text[start : start + 40])}. If quotes are text, read with "
            "quotes=False.",
            before.count("\n"),
        )


class _BadQuote(BadRow):
    """A bad row whose end is not known."""


def table_that_fits(tables):
    """Returns the table whose delimiter gives most of the first rows their fields."""
    if len(tables) == 1 or not tables[0].head:
        table = tables[0]
    else:
        most = max(table.num_fitting() for table in tables)
        fitting = [table for table in tables if table.num_fitting() == most]
        tab = [table for table in fitting if table.delimiter == "\t"]  # not used in prose
        table = (tab or fitting)[0]
        if 2 * most < len(table.head):
            raise ValueError(_no_delimiter(tables))
        if len(fitting) > 1 and not tab:
            raise ValueError(
                f"{table.path}: Expected one delimiter that fits the first rows. Received "
                f"rows that fit {[table.delimiter for table in fitting]}: pass delimiter=."
            )
    table.check_header()
    table.head.clear()
    return table


def _no_delimiter(tables):
    """Returns the error for a file that no delimiter fits."""
    for rows in zip(*(table.head for table in tables), strict=False):
        if all(isinstance(row, BadRow) for _, row in rows):
            number, bad = rows[0]
            return f"{tables[0].path}, line {number + bad.lines_below}: {bad}"
    seen = [
        f"by {table.delimiter!r} "
        + (str(table.first) if isinstance(table.first, BadRow) else short(table.first))
        for table in tables
    ]
    expected = "a header with" if tables[0].header.is_missing else "first rows of"
    return (
        f"{tables[0].path}, line {tables[0].head[0][0]}: Expected {expected} the fields "
        f"{', '.join(tables[0].names)} between commas, tabs, semicolons or |. Received: "
        f"{'; '.join(seen)}. Pass delimiter=, or columns= for the names in a header."
    )
