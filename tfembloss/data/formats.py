"""File readers, which yield (row number, cells or BadRow)."""

import contextlib
import functools
import itertools
import json
import os

import tensorflow as tf
from google.protobuf import message

from tfembloss.data.headers import Header, known_names
from tfembloss.data.lines import (
    HEAD,
    NoRows,
    decoded,
    lines_of,
    open_packed,
    readable,
    too_long,
    without_end,
)
from tfembloss.data.records import Damaged, records
from tfembloss.data.rows import BadRow, is_unicode, short
from tfembloss.data.tables import Table, table_that_fits

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\n"}  # of the kind "text"


def open_file(path, fields, columns, header, delimiter, quotes, max_row_bytes):
    """Returns the reader for a file's extension."""
    ending = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if ending in _DELIMITERS:
        if fields == ["text"] and columns is None and delimiter is None:
            delimiter = _DELIMITERS[ending]
            quotes = quotes and delimiter != "\n"
        table = functools.partial(
            Table, path, fields, columns, header, quotes, max_row_bytes
        )
        return table_that_fits([*map(table, delimiter or ",\t;|")])
    if ending in (".jsonl", ".ndjson"):
        return _JsonLines(path, fields, columns, header, max_row_bytes)
    if ending in (".tfrecord", ".tfrecords"):
        return _TFRecords(path, fields, columns, max_row_bytes)
    raise ValueError(
        "Expected a file that ends in .csv, .tsv, .txt, .jsonl, .ndjson, .tfrecord or "
        f".tfrecords, or in one of these and .gz. Received: {path!r}"
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
        """Yields the line number and the value of each row, or a BadRow."""
        number = 1
        for line in lines_of(self.path, self.max_row_bytes):
            if type(line) is NoRows:
                number += line.count(b"\n")
                continue
            try:
                value = self._value(without_end(decoded(line, self.max_row_bytes)))
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
            hint = "" if self.columns else " Pass other names as columns=."
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


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # json.loads makes one per call


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
            with contextlib.suppress(BadRow):  # reported when the row is read
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
        with open_packed(self.path) as file:
            try:
                for number, record in enumerate(records(file, self.max_row_bytes), 1):
                    yield number, record
            except Damaged as error:
                raise ValueError(
                    f"{self.path}, record {number + 1}: Expected a TFRecord with its "
                    f"length and checksums. Received a damaged or truncated one ({error}), "
                    "after which nothing can be read. Make or fetch the file again; if it "
                    "is gzipped, its name must end in .gz."
                ) from None

    def _cells(self, record):
        if record is None:
            raise too_long(self.max_row_bytes)
        features = _features(record)
        if missing := [name for name in self.names if name not in features]:
            raise BadRow(
                f"Expected features {list(self.names)}. Received none for {missing}, "
                f"only {short(sorted(features))}. Pass other names as columns=."
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
