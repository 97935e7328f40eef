"""Rows of cells from files, each numbered; what is wrong with one stands in its place."""

import codecs
import collections
import contextlib
import functools
import gzip
import itertools
import json
import os
import re
import zlib

import tensorflow as tf
from google.protobuf import message

from tfembloss.data.headers import Header, known_names
from tfembloss.data.records import Damaged, records
from tfembloss.data.rows import BadRow, is_unicode, short

_LINE_FEED = ord("\n")
HEAD = 20  # rows that are looked at before reading begins
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\n"}  # of texts alone; a line is one
_UTF8_BOM = codecs.BOM_UTF8
_NO_ROWS = (b"\n", b"\r\n", _UTF8_BOM, _UTF8_BOM + b"\n", _UTF8_BOM + b"\r\n")
_OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def readable(path, unit, rows):
    """Numbered rows; damage of the packing is an error that nothing leaves out."""
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


def open_file(path, fields, columns, header, delimiter, quotes, max_row_bytes):
    """The reader for a file's ending."""
    ending = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if ending in _DELIMITERS:
        if fields == ["text"] and columns is None and delimiter is None:
            delimiter = _DELIMITERS[ending]
            quotes = quotes and delimiter != "\n"
        table = functools.partial(
            _Table, path, fields, columns, header, quotes, max_row_bytes
        )
        return _table_that_fits([*map(table, delimiter or ",\t;|")])
    if ending in (".jsonl", ".ndjson"):
        return _JsonLines(path, fields, columns, header, max_row_bytes)
    if ending in (".tfrecord", ".tfrecords"):
        return _TFRecords(path, fields, columns, max_row_bytes)
    raise ValueError(
        "Expected a file that ends in .csv, .tsv, .txt, .jsonl, .ndjson, .tfrecord or "
        f".tfrecords, or in one of these and .gz. Received: {path!r}"
    )


def _open(path):
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


class _NoRows(bytes):
    """Lines without anything in them, which are text only between quotes."""


_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")


def _num_empty(ahead):
    """How many bytes of empty lines come first."""
    ends = ahead[: len(ahead) - len(ahead.lstrip(b"\r\n"))]
    if ends.count(b"\r") == ends.count(b"\r\n"):
        return len(ends)
    return _EMPTY_LINES.match(ends).end()  # slower


def _lines(path, limit):
    """Lines with their ends; of one longer than the limit, limit + 1 bytes."""
    with _open(path) as file:
        line = file.readline(limit + 1 + len(_UTF8_BOM)).removeprefix(_UTF8_BOM)
        if line.startswith(_OTHER_BOMS):
            raise ValueError(
                f"{path}, line 1, column 1: Expected UTF-8. Received a byte order mark of "
                "UTF-16 or UTF-32. Write the file as UTF-8."
            )
        line = line or file.readline(limit + 1)
        while line:
            if len(line) < 6 and line in _NO_ROWS:
                yield _NoRows(line + file.read(_num_empty(file.peek(1))))
            else:
                yield line
            while len(line) > limit and not line.endswith(b"\n"):  # the rest of it
                line = file.readline(limit + 1)
            line = file.readline(limit + 1)


def _without_end(line):
    return line.removesuffix("\n").rstrip("\r")


def _too_long(limit):
    return BadRow(
        f"Expected a row of at most max_row_bytes={limit}. Received a longer one. Shorten "
        "it or give a larger max_row_bytes."
    )


_QUOTED = re.compile(rb'"[^"]*"?')


def _decoded(row, limit, quotes=False):
    """A row's text, without the byte order mark that a joined file may begin with."""
    if row[-1] != _LINE_FEED and b"\r" in row[:-1]:
        plain = _QUOTED.sub(lambda text: b" " * len(text[0]), row) if quotes else row
        if (place := plain.find(b"\r", 0, -1)) >= 0:
            raise BadRow(
                "Expected lines that end in \\n or \\r\\n. Received a \\r alone in column "
                f"{place + 1}. Write line ends as \\n; a \\r in a field belongs in quotes."
            )
    if len(row) > limit:
        raise _too_long(limit)
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


class _Table:
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
        if delimiter == "\n":  # lines are texts as they stand
            header = bool(header)
        self.header = Header([row for _, row in self.head], fields, columns, header)
        self.first = self.head[0][1] if self.head else []
        self.expected = self.header.names or fields

    def num_fitting(self):
        """How many of the first rows have the fields expected."""
        if self.header.is_missing:
            return 0
        expected = self.first if self.header.problem else self.expected
        rows = [row for _, row in self.head if isinstance(row, list)]
        return sum(len(row) == len(expected) for row in rows)

    def check_header(self):
        """Raises what is wrong with the header."""
        if self.header.problem:
            between = "" if self.delimiter == "\n" else f", between {self.delimiter!r}"
            raise ValueError(
                f"{self.path}, line {self.head[0][0]}{between}: {self.header.problem}"
            )

    def rows(self):
        for number, row in self.header.skipped(self.path, self._lists()):
            yield number, self._cells(row)

    def _cells(self, row):
        if isinstance(row, BadRow):
            return row
        if len(row) != len(self.expected):
            return BadRow(
                f"Expected {len(self.expected)} fields ({', '.join(self.expected)}) "
                f"between {self.delimiter!r}. Received {len(row)}: {short(row)}. A field "
                "with the delimiter in it belongs in quotes; the names in a header are "
                "given as columns=."
            )
        return row if self.header.places is None else self.header.picked(row)

    def _lists(self):
        """Line number and list of all fields of each row, or what is wrong with it."""
        lines = _lines(self.path, self.max_row_bytes)
        ahead = collections.deque()  # lines that were read to find a closing quote
        number = 1  # of the row's first line
        while ahead or (line := next(lines, None)):
            if not ahead:
                ahead.append(line)
            if type(ahead[0]) is _NoRows:
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
        """How many lines the row has: to where the number of quotes is even."""
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
        """All fields of a row."""
        is_quoted = self.quotes and b'"' in row
        try:
            text = _without_end(_decoded(row, self.max_row_bytes, self.quotes))
        except BadRow:
            if is_quoted:  # is all of it one row? If not, that is what to say
                self._unquoted(_without_end(row.decode(errors="replace")))
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
            f"{short(text[start : start + 40])}. Where quotes are text, read with "
            "quotes=False.",
            before.count("\n"),
        )


class _BadQuote(BadRow):
    """Where the row ends is not known."""


def _table_that_fits(tables):
    """The table with the delimiter by which most of the first rows have their fields."""
    if len(tables) == 1 or not tables[0].head:
        table = tables[0]
    else:
        most = max(table.num_fitting() for table in tables)
        fitting = [table for table in tables if table.num_fitting() == most]
        tab = [table for table in fitting if table.delimiter == "\t"]  # in no prose
        table = (tab or fitting)[0]
        if 2 * most < len(table.head):
            raise ValueError(_no_delimiter(tables))
        if len(fitting) > 1 and not tab:
            raise ValueError(
                f"{table.path}: Expected one delimiter that fits the first rows. Received "
                f"rows that fit {[table.delimiter for table in fitting]}: give delimiter=."
            )
    table.check_header()
    table.head.clear()
    return table


def _no_delimiter(tables):
    """What was seen in a file that no delimiter fits."""
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
        f"{'; '.join(seen)}. Give delimiter=, or columns= for the names in a header."
    )


class _JsonLines:
    """Rows of JSON objects or arrays."""

    unit = "line"

    def __init__(self, path, fields, columns, header, max_row_bytes):
        self.path = path
        self.fields = fields
        self.columns = columns
        self.max_row_bytes = max_row_bytes
        head = list(itertools.islice(readable(path, self.unit, self._values()), HEAD))
        values = [value for _, value in head]
        has_arrays = bool(values) and isinstance(values[0], list)
        if not has_arrays:
            header = False
        self.header = Header(values, fields, columns, header)
        if self.header.problem:
            raise ValueError(f"{path}, line {head[0][0]}: {self.header.problem}")
        self.num_cells = len(self.header.names or fields)
        self.takes_arrays = self.header.names is not None or columns is None
        objects = (value for value in values if isinstance(value, dict))
        self.names = columns or known_names(list(next(objects, ())), fields) or fields
        self.names_set = frozenset(self.names)

    def rows(self):
        for number, value in self.header.skipped(self.path, self._values()):
            try:
                row = self._cells(value)
            except BadRow as error:
                row = error
            yield number, row

    def _values(self):
        """Line number and value of each row, or what is wrong with it."""
        number = 1
        for line in _lines(self.path, self.max_row_bytes):
            if type(line) is _NoRows:
                number += line.count(b"\n")
                continue
            try:
                value = self._value(_without_end(_decoded(line, self.max_row_bytes)))
            except BadRow as error:
                value = error
            yield number, value
            number += 1

    def _value(self, line):
        try:
            return _DECODER.decode(line)
        except BadRow:
            raise
        except (ValueError, RecursionError) as error:
            is_syntax = isinstance(error, json.JSONDecodeError)
            what = f"{error.msg}, column {error.colno}" if is_syntax else error
            raise BadRow(f"Expected JSON. Received: {short(line)} ({what}).") from None

    def _cells(self, row):
        if isinstance(row, dict) and self.names_set <= row.keys():
            cells = [row[name] for name in self.names]
        elif isinstance(row, list) and self.takes_arrays and len(row) == self.num_cells:
            cells = self.header.picked(row)
        elif isinstance(row, BadRow):
            return row
        else:
            array = ", or an array of these" if self.takes_arrays else ""
            hint = "" if self.columns else " Other names are given as columns=."
            raise BadRow(
                f"Expected an object with {', '.join(self.names)}{array}. "
                f"Received: {short(row)}.{hint}"
            )
        if isinstance(cells, BadRow):
            return cells
        for field, cell in zip(self.fields, cells, strict=True):
            types = _JSON_TYPES.get(field, (str,))
            if type(cell) not in types:
                raise BadRow(
                    f"Expected {' or '.join(each.__name__ for each in types)} as {field}. "
                    f"Received: {short(cell)} of type {type(cell).__name__}."
                )
            if isinstance(cell, str) and not is_unicode(cell):
                raise BadRow(
                    f"Expected Unicode text as {field}. Received half of a surrogate pair "
                    f"in {short(cell)}."
                )
        return cells


_JSON_TYPES = {"score": (int, float), "label": (str, int)}


def _object(pairs):
    if len(row := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise BadRow(f"Expected each name once in an object. Received: {short(names)}")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # json.loads would make one a row


class _TFRecords:
    """Rows of `tf.train.Example`."""

    unit = "record"

    def __init__(self, path, fields, columns, max_row_bytes):
        self.path = path
        self.fields = fields
        self.max_row_bytes = max_row_bytes
        self.header = Header([], fields, columns, False)
        self.names = columns or fields
        _, first = next(readable(path, self.unit, self._records()), (1, None))
        if columns is None and first is not None:
            with contextlib.suppress(BadRow):  # said where it is read
                self.names = known_names(sorted(_features(first)), fields) or fields

    def rows(self):
        for number, record in self._records():
            try:
                row = self._cells(record)
            except BadRow as error:
                row = error
            yield number, row

    def _records(self):
        number = 0
        with _open(self.path) as file:
            try:
                for number, record in enumerate(records(file, self.max_row_bytes), 1):
                    yield number, record
            except Damaged as error:
                raise ValueError(
                    f"{self.path}, record {number + 1}: Expected a TFRecord with its "
                    f"length and checksums. Received a damaged or truncated one ({error}), "
                    "after which nothing can be found. Make or fetch the file again; "
                    "packed by gzip its name ends in .gz."
                ) from None

    def _cells(self, record):
        if record is None:
            raise _too_long(self.max_row_bytes)
        features = _features(record)
        if missing := [name for name in self.names if name not in features]:
            raise BadRow(
                f"Expected features {list(self.names)}. Received none for {missing}, "
                f"only {short(sorted(features))}. Other names are given as columns=."
            )
        pairs = zip(self.fields, self.names, strict=True)
        return [self._cell(field, features[name]) for field, name in pairs]

    def _cell(self, field, feature):
        lists = _FEATURES.get(field, ("bytes_list",))
        found = feature.WhichOneof("kind")
        values = getattr(feature, found).value if found in lists else ()
        if len(values) != 1:
            raise BadRow(
                f"Expected one value as {field}, in {' or '.join(lists)}. "
                f"Received: {short(str(feature))}"
            )
        if found != "bytes_list":
            return values[0]
        try:
            return values[0].decode()
        except UnicodeDecodeError as error:
            raise BadRow(f"Expected UTF-8 as {field}. Received: {error}.") from None


def _features(record):
    try:
        return tf.train.Example.FromString(record).features.feature
    except message.DecodeError:
        raise BadRow("Expected a tf.train.Example. Received other bytes.") from None


_FEATURES = {"score": ("float_list",), "label": ("bytes_list", "int64_list")}
