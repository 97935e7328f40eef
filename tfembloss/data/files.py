"""Rows from files: CSV, TSV, JSON lines and TFRecord, also gzipped."""

import codecs
import collections
import functools
import gzip
import itertools
import json
import os
import re
import warnings
import zlib

import numpy as np
import tensorflow as tf
from google.protobuf import message

from tfembloss.data.columns import as_element

_KINDS = (
    "article-label",
    "query-article",
    "query-article-irrelevant_article",
    "query-article-score",
    "text-image",
)
_HEAD = 20  # rows that are looked at before reading begins
_CHUNK = 1024  # rows that go to TensorFlow at once
_UTF8_BOM = codecs.BOM_UTF8
_OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_MAX_SCORE = float(np.finfo(np.float32).max)


def read(
    paths,
    kind,
    *,
    columns=None,
    delimiter=None,
    quotes=True,
    label_dtype="string",
    bad_rows="error",
    max_row_bytes=2**20,
):
    r"""A dataset of the rows of files, in memory that does not grow with them.

    | kind | element |
    |---|---|
    | `"query-article"` | `((query, article),)` |
    | `"query-article-irrelevant_article"` | `((query, article, irrelevant_article),)` |
    | `"query-article-score"` | `((query, article), score)`, float32 |
    | `"article-label"` | `(article, label)` |
    | `"text-image"` | `((text, image),)`, the image's path as it is written |

    The parts of the kind's name are the names of its fields. The file's ending says how
    they are written, all in UTF-8:

    - `.csv`, `.tsv`, `.txt`: fields in the kind's order, or in that of the header: a first
      row that consists of the fields' names, or with `columns` any first row. A field with
      the delimiter, a line end or a `"` in it stands in quotes, and each `"` within it is
      doubled.
    - `.jsonl`, `.ndjson`: objects with the fields' names, or with those in `columns`; or,
      without `columns`, arrays in the kind's order.
    - `.tfrecord`, `.tfrecords`: `tf.train.Example` with features of these names, each of
      one value: bytes for text, int64 or bytes for a label, float for a score.

    Any of them may be gzipped and then ends in `.gz`. Lines end in `\n` or `\r\n`; empty
    lines are no rows. Further columns and names are not read.

    Args:
        paths: a file, or a list of files.
        kind: one of the kinds above.
        columns: names that the file has for the kind's fields, in their order, such as
            `("question", "answer")`. By default the fields have the kind's names.
        delimiter: the character between fields. By default that of comma, tab, semicolon
            and `|` by which most of the first 20 rows have the fields expected; where
            several do, the tab.
        quotes: False where a `"` is a character like others, and a row one line.
        label_dtype: `"string"`, or `"int64"` for labels that are integers.
        bad_rows: `"error"`, or `"skip"` to leave them out and, at the end of each pass, to
            warn how many they were in which file.
        max_row_bytes: the longest row in a file, > 0; it bounds the memory.

    Returns:
        A `tf.data.Dataset` of single rows: go on with `.shuffle(...).batch(...)`, for
        images after a `.map` that reads the path, as
        `lambda x: ((x[0], tf.io.decode_image(tf.io.read_file(x[1]))),)`.
        How many rows there are is not known before they are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument or a file's ending is none of these, no or more than one
            delimiter fits, a
            column is missing, or one of a file's first 20 rows is bad. A bad row has
            another number of fields, quotes that do not fit, an empty field, a score that
            is no finite number, a label of another type, JSON that is no object with the
            fields, a NUL character, bytes that are no UTF-8, more than `max_row_bytes`, or
            a wrong checksum.
        tf.errors.InvalidArgumentError: a later row is bad, when it is reached; the text
            is that of the ValueError. The rows before it have come. Of gzip that is
            truncated or damaged and of TFRecords whose lengths are, the rest cannot be
            read, with `"skip"` neither.

    Of a quote that never closes `"skip"` leaves out the lines up to that where it opens.

    Example:

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = os.path.join(folder, "pairs.csv")
    >>> with open(path, "w") as file:
    ...     _ = file.write('question,id,answer\nhow old?,1,seven\nwhere?,2,"here, there"\n')
    >>> pairs = read(path, "query-article", columns=("question", "answer"))
    >>> for ((query, article),) in pairs.batch(2):
    ...     print(query.numpy(), article.numpy())
    [b'how old?' b'where?'] [b'seven' b'here, there']

    Relations:
        Finetuner's CSV files, pandas' `read_csv`, tf.data's `make_csv_dataset`; those do
        not say what they leave out.
    """
    make_rows = _checked(
        paths, kind, columns, delimiter, quotes, label_dtype, bad_rows, max_row_bytes
    )
    fields = kind.split("-")
    dtypes = {"score": tf.float32, "label": tf.as_dtype(label_dtype)}
    signature = [tf.TensorSpec([None], dtypes.get(name, tf.string)) for name in fields]
    has_target = fields[-1] in dtypes

    def element(*values):
        x, y = (values[:-1], values[-1:]) if has_target else (values, ())
        return as_element(x if len(x) > 1 else x[0], *y)

    return (
        tf.data.Dataset.from_generator(
            lambda: _chunks(make_rows()), output_signature=tuple(signature)
        )
        .map(element)
        .unbatch()
    )


def read_rows(paths, kind, **options):
    r"""The rows that `read` makes a dataset of, one by one, as Python values.

    Args:
        paths: a file, or a list of files.
        kind: a kind of data, as in `read`.
        **options: the other arguments of `read`.

    Returns:
        An iterator of tuples of the kind's fields, in its order: str, of a score float, of
        a label str or int.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as in `read`; here also of a later row, when it is reached.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "pairs.tsv")
    >>> with open(path, "w") as file:
    ...     _ = file.write("how old?\tseven\nwhere?\there\n")
    >>> [text for row in read_rows(path, "query-article") for text in row]
    ['how old?', 'seven', 'where?', 'here']
    """
    defaults = read.__kwdefaults__
    if unknown := options.keys() - defaults.keys():
        raise TypeError(f"Expected options of {list(defaults)}. Received: {unknown}")
    return _checked(paths, kind, **{**defaults, **options})()


class _BadRow(ValueError):
    """What is wrong with a row, and how many lines it is below the row's first."""

    def __init__(self, message, lines_below=0):
        super().__init__(message)
        self.lines_below = lines_below


def _checked(paths, kind, columns, delimiter, quotes, label_dtype, bad_rows, max_row_bytes):
    """A function that begins to read all rows, after a look at each file's first ones."""
    if kind not in _KINDS:
        raise ValueError(
            f"Expected a kind of data that can be read, one of {list(_KINDS)}. "
            f"Received: kind={kind!r}"
        )
    fields = kind.split("-")
    if columns is not None and (isinstance(columns, str) or len(columns) != len(fields)):
        raise ValueError(
            f"Expected columns of {len(fields)} names, for {', '.join(fields)}. "
            f"Received: columns={columns!r}"
        )
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(
            "Expected as delimiter one character, no quote and no line end. "
            f"Received: delimiter={delimiter!r}"
        )
    if label_dtype not in ("string", "int64") or bad_rows not in ("error", "skip"):
        raise ValueError(
            'Expected label_dtype "string" or "int64" and bad_rows "error" or "skip". '
            f"Received: label_dtype={label_dtype!r}, bad_rows={bad_rows!r}"
        )
    if max_row_bytes < 1:
        raise ValueError(
            f"Expected max_row_bytes > 0. Received: max_row_bytes={max_row_bytes}"
        )
    paths = [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)
    if not paths:
        raise ValueError("Expected at least one file. Received: none.")

    convert = _converter(fields, label_dtype)
    files = []
    for path in map(os.fsdecode, paths):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected a file. Received: {path!r}, which is none.")
        file = _file(path, fields, columns, delimiter, quotes, max_row_bytes)
        files.append(file)
        _check_head(file, convert, bad_rows)
    return lambda: itertools.chain.from_iterable(
        _rows(file, convert, bad_rows) for file in files
    )


def _check_head(file, convert, bad_rows):
    """Raises what the first rows are bad for, if that is an error."""
    if bad_rows == "error":
        head = list(itertools.islice(_rows(file, convert, bad_rows), _HEAD))
    else:
        head = list(itertools.islice(_readable(file.path, file.unit, file.rows()), 1))
    if not head:
        raise ValueError(f"{file.path}: Expected at least one row. Received: none.")


def _rows(file, convert, bad_rows):
    """A file's rows, converted; the bad ones counted or an error."""
    total = bad = 0
    first_bad = None
    try:
        for number, row in _readable(file.path, file.unit, file.rows()):
            total += 1
            try:
                row = convert(row)
            except _BadRow as error:
                message = f"{file.path}, {file.unit} {number + error.lines_below}: {error}"
                if bad_rows == "error":
                    raise ValueError(
                        f'{message} Mend it, or leave out bad rows with bad_rows="skip".'
                    ) from None
                first_bad = first_bad or message
                bad += 1
                continue
            yield row
    finally:  # also where the reader stops early
        if bad:
            warnings.warn(
                f"{file.path}: left out {bad} bad rows of {total}. The first: {first_bad}",
                stacklevel=2,
            )


def _readable(path, unit, rows):
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


def _chunks(rows):
    """Rows in chunks, as tuples of columns; those before an error first."""
    error = None
    while error is None:
        chunk = []
        try:
            for row in itertools.islice(rows, _CHUNK):
                chunk.append(row)
        except ValueError as found:
            error = found
        if chunk:
            yield tuple(map(list, zip(*chunk, strict=True)))
        elif error is None:
            return
    raise error


# From a row's cells to its values.


def _converter(fields, label_dtype):
    """A function from a row's cells to its values, or to what is wrong with it."""
    to_label = _text if label_dtype == "string" else _integer
    converters = {"score": _score, "label": to_label}
    columns = [(converters.get(field, _text), field) for field in fields]

    def convert(row):
        if isinstance(row, _BadRow):
            raise row
        cells = zip(columns, row, strict=True)
        return tuple([to_value(cell, field) for (to_value, field), cell in cells])

    return convert


def _text(cell, name):
    cell = str(cell)  # a label may be a number
    if not cell or cell.isspace():
        raise _BadRow(f"Expected a text as {name}. Received an empty field.")
    if "\0" in cell:
        raise _BadRow(
            f"Expected a text as {name}. Received a NUL character in {_short(cell)}; a "
            "file full of them may be UTF-16: write it as UTF-8."
        )
    return cell


def _score(cell, name):
    try:
        score = cell if isinstance(cell, int) else _number(float, cell)
        if abs(score) <= _MAX_SCORE:
            return float(score)
    except ValueError:
        pass
    raise _BadRow(
        f"Expected a finite float32 number as {name}, with a decimal point. "
        f"Received: {_short(cell)}"
    )


def _integer(cell, name):
    try:
        if -(2**63) <= (label := _number(int, cell)) < 2**63:
            return label
    except ValueError:
        pass
    raise _BadRow(
        f"Expected an integer as {name}. Received: {_short(cell)}. Labels that are texts "
        'are read with label_dtype="string".'
    )


def _number(dtype, cell):
    """A number; Python's own would take 1_000 as well."""
    if isinstance(cell, str) and "_" in cell:
        raise ValueError("no number")
    return dtype(cell)


def _short(value):
    text = repr(value[:80] if isinstance(value, str | list) else value)
    return text if len(text) <= 80 else text[:77] + "..."


# From a file to the cells of its rows.


def _file(path, fields, columns, delimiter, quotes, max_row_bytes):
    """The reader for a file's ending."""
    ending = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if ending in (".csv", ".tsv", ".txt"):
        table = functools.partial(_Table, path, fields, columns, quotes, max_row_bytes)
        return _table_that_fits([*map(table, delimiter or ",\t;|")])
    if ending in (".jsonl", ".ndjson"):
        return _JsonLines(path, fields, columns, max_row_bytes)
    if ending in (".tfrecord", ".tfrecords"):
        return _TFRecords(path, fields, columns, max_row_bytes)
    raise ValueError(
        "Expected a file that ends in .csv, .tsv, .txt, .jsonl, .ndjson, .tfrecord or "
        f".tfrecords, or in one of these and .gz. Received: {path!r}"
    )


def _open(path):
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


def _lines(path, limit):
    """Lines with their ends; of one longer than the limit, limit + 1 bytes."""
    with _open(path) as file:
        line = file.readline(limit + 1 + len(_UTF8_BOM)).removeprefix(_UTF8_BOM)
        if line.startswith(_OTHER_BOMS):
            raise ValueError(
                f"{path}, line 1, column 1: Expected UTF-8. Received a byte order mark of "
                "UTF-16 or UTF-32. Write the file as UTF-8."
            )
        while line:
            yield line
            while len(line) > limit and not line.endswith(b"\n"):  # the rest of it
                line = file.readline(limit + 1)
            line = file.readline(limit + 1)


def _without_end(line):
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _too_long(limit):
    return _BadRow(
        f"Expected a row of at most max_row_bytes={limit}. Received a longer one. Shorten "
        "it or give a larger max_row_bytes."
    )


def _decoded(row, limit):
    """A row's text."""
    if len(row) > limit:
        raise _too_long(limit)
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        before = row[: error.start].decode()
        column = len(before) - before.rfind("\n")
        raise _BadRow(
            f"Expected UTF-8. Received the byte 0x{row[error.start]:02x} in column "
            f"{column}. Write the file as UTF-8.",
            before.count("\n"),
        ) from None


class _Table:
    """Rows of fields between delimiters."""

    unit = "line"

    def __init__(self, path, fields, columns, quotes, max_row_bytes, delimiter):
        self.path = path
        self.quotes = quotes
        self.max_row_bytes = max_row_bytes
        self.delimiter = delimiter
        self.names = columns or fields
        character = re.escape(delimiter)
        self.cell = re.compile(rf'"((?:[^"]++|"")*+)"|([^"{character}]*+)')
        rows = _readable(path, self.unit, self._lists())
        self.head = list(itertools.islice(rows, _HEAD))
        self.first = self.head[0][1] if self.head else []
        has_names = isinstance(self.first, list) and set(self.names) <= set(self.first)
        is_header = has_names and (columns or len(self.first) == len(fields))
        self.header = self.first if is_header else None
        self.lacks_header = columns is not None and not is_header
        self.expected = self.header or fields
        self.places = [self.expected.index(n) for n in self.names] if is_header else None

    def num_fitting(self):
        """How many of the first rows have the fields expected."""
        rows = [row for _, row in self.head if isinstance(row, list)]
        fits = sum(len(row) == len(self.expected) for row in rows)
        return 0 if self.lacks_header else fits

    def check_header(self):
        """Raises what is wrong with the header."""
        received = f"Received, between {self.delimiter!r}: {_short(self.first)}"
        if self.lacks_header:
            raise ValueError(
                f"{self.path}: Expected a header with the columns {list(self.names)}. "
                f"{received}"
            )
        for name in self.names if self.header else ():
            if self.header.count(name) > 1:
                raise ValueError(
                    f"{self.path}: Expected one column {name!r} in the header. {received}"
                )

    def rows(self):
        rows = self._lists()
        for number, row in itertools.islice(rows, 1 if self.header else 0, None):
            yield number, self._cells(row)

    def _cells(self, row):
        if isinstance(row, _BadRow):
            return row
        if len(row) != len(self.expected):
            return _BadRow(
                f"Expected {len(self.expected)} fields ({', '.join(self.expected)}) "
                f"between {self.delimiter!r}. Received {len(row)}: {_short(row)}. A field "
                "with the delimiter in it belongs in quotes."
            )
        return row if self.places is None else [row[place] for place in self.places]

    def _lists(self):
        """Line number and list of all fields of each row, or what is wrong with it."""
        lines = _lines(self.path, self.max_row_bytes)
        ahead = collections.deque()  # lines that were read to find a closing quote
        number = 1  # of the row's first line
        while ahead or (line := next(lines, None)):
            if not ahead:
                ahead.append(line)
            if ahead[0] in (b"\n", b"\r\n"):
                ahead.popleft()
                number += 1
                continue
            may_go_on = self.quotes and b'"' in ahead[0]
            count = self._count_lines(ahead, lines) if may_go_on else 1
            row = ahead[0] if count == 1 else b"".join(itertools.islice(ahead, count))
            try:
                row = self._split(row)
            except _BadRow as error:
                row = error
            if isinstance(row, _BadQuote):
                count = row.lines_below + 1  # the other lines may be rows
            yield number, row
            for _ in range(count):
                ahead.popleft()
            number += count

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
            text = _without_end(_decoded(row, self.max_row_bytes))
        except _BadRow:
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
            f"{_short(text[start : start + 40])}. Where quotes are text, read with "
            "quotes=False.",
            before.count("\n"),
        )


class _BadQuote(_BadRow):
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
    return table


def _no_delimiter(tables):
    """What was seen in a file that no delimiter fits."""
    number, first = tables[0].head[0]
    if all(isinstance(table.first, _BadRow) for table in tables):
        return f"{tables[0].path}, line {number + first.lines_below}: {first}"
    seen = [
        f"by {table.delimiter!r} "
        + (str(table.first) if isinstance(table.first, _BadRow) else _short(table.first))
        for table in tables
    ]
    expected = "a header with" if tables[0].lacks_header else "first rows of"
    return (
        f"{tables[0].path}, line {number}: Expected {expected} the fields "
        f"{', '.join(tables[0].names)} between commas, tabs, semicolons or |. Received: "
        f"{'; '.join(seen)}. Give delimiter=, or columns= for the names in a header."
    )


class _JsonLines:
    """Rows of JSON objects or arrays."""

    unit = "line"

    def __init__(self, path, fields, columns, max_row_bytes):
        self.path = path
        self.fields = fields
        self.columns = columns
        self.max_row_bytes = max_row_bytes

    def rows(self):
        for number, line in enumerate(_lines(self.path, self.max_row_bytes), 1):
            if line in (b"\n", b"\r\n"):
                continue
            try:
                row = self._cells(_without_end(_decoded(line, self.max_row_bytes)))
            except _BadRow as error:
                row = error
            yield number, row

    def _cells(self, line):
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except _BadRow:
            raise
        except (ValueError, RecursionError) as error:
            is_syntax = isinstance(error, json.JSONDecodeError)
            what = f"{error.msg}, column {error.colno}" if is_syntax else error
            raise _BadRow(f"Expected JSON. Received: {_short(line)} ({what}).") from None
        names = self.columns or self.fields
        if isinstance(row, list) and self.columns is None and len(row) == len(names):
            cells = row
        elif isinstance(row, dict) and set(names) <= row.keys():
            cells = [row[name] for name in names]
        else:
            array = "" if self.columns else ", or an array of these"
            raise _BadRow(
                f"Expected an object with {', '.join(names)}{array}. "
                f"Received: {_short(line)}"
            )
        for field, cell in zip(self.fields, cells, strict=True):
            types = _JSON_TYPES.get(field, (str,))
            if type(cell) not in types:
                raise _BadRow(
                    f"Expected {' or '.join(each.__name__ for each in types)} as {field}. "
                    f"Received: {_short(cell)} of type {type(cell).__name__}."
                )
            if isinstance(cell, str) and not _is_unicode(cell):
                raise _BadRow(
                    f"Expected Unicode text as {field}. Received half of a surrogate pair "
                    f"in {_short(cell)}."
                )
        return cells


_JSON_TYPES = {"score": (int, float), "label": (str, int)}


def _object(pairs):
    if len(row := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise _BadRow(f"Expected each name once in an object. Received: {_short(names)}")
    return row


def _is_unicode(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _TFRecords:
    """Rows of `tf.train.Example`.

    A record is its length (uint64), the length's checksum (uint32), so many bytes, and
    their checksum. Read here, because TensorFlow's reader takes any length into memory,
    and stops at the first record whose bytes are damaged.
    """

    unit = "record"

    def __init__(self, path, fields, columns, max_row_bytes):
        self.path = path
        self.fields = fields
        self.names = columns or fields
        self.max_row_bytes = max_row_bytes

    def rows(self):
        with _open(self.path) as file:
            for number in itertools.count(1):
                if not (head := file.read(12)):
                    return
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or _checksum(head[:8]) != head[8:]:
                    self._raise_damage(number)
                is_too_long = length > self.max_row_bytes
                while length > self.max_row_bytes:
                    if not (skipped := file.read(self.max_row_bytes)):
                        self._raise_damage(number)
                    length -= len(skipped)
                record, checksum = file.read(length), file.read(4)
                if len(record) < length or len(checksum) < 4:
                    self._raise_damage(number)
                try:
                    if is_too_long:
                        raise _too_long(self.max_row_bytes)
                    row = self._cells(record, checksum)
                except _BadRow as error:
                    row = error
                yield number, row

    def _raise_damage(self, number):
        raise ValueError(
            f"{self.path}, record {number}: Expected a TFRecord with its length and "
            "checksums. Received a damaged or truncated one, after which nothing can be "
            "found. Make or fetch the file again; packed by gzip its name ends in .gz."
        )

    def _cells(self, record, checksum):
        if _checksum(record) != checksum:
            raise _BadRow(
                "Expected a record of the checksum it has. Received a damaged one."
            )
        try:
            features = tf.train.Example.FromString(record).features.feature
        except message.DecodeError:
            raise _BadRow("Expected a tf.train.Example. Received other bytes.") from None
        if missing := [name for name in self.names if name not in features]:
            raise _BadRow(
                f"Expected features {list(self.names)}. Received none for {missing}, "
                f"only {_short(sorted(features))}."
            )
        pairs = zip(self.fields, self.names, strict=True)
        return [self._cell(field, features[name]) for field, name in pairs]

    def _cell(self, field, feature):
        lists = _FEATURES.get(field, ("bytes_list",))
        found = feature.WhichOneof("kind")
        values = getattr(feature, found).value if found in lists else ()
        if len(values) != 1:
            raise _BadRow(
                f"Expected one value as {field}, in {' or '.join(lists)}. "
                f"Received: {_short(str(feature))}"
            )
        if found != "bytes_list":
            return values[0]
        try:
            return values[0].decode()
        except UnicodeDecodeError as error:
            raise _BadRow(f"Expected UTF-8 as {field}. Received: {error}.") from None


_FEATURES = {"score": ("float_list",), "label": ("bytes_list", "int64_list")}


def _checksum(data):
    """The masked CRC-32C of TFRecord files."""
    tables, crc = _crc_tables(), 0xFFFFFFFF
    for start in range(0, len(data), len(tables)):
        block = bytearray(data[start : start + len(tables)])
        size = len(block)
        for i in range(min(size, 4)):
            block[i] ^= crc >> 8 * i & 0xFF
        from_end = np.arange(size - 1, -1, -1)
        crc = int(np.bitwise_xor.reduce(tables[from_end, block])) ^ crc >> 8 * size
    crc ^= 0xFFFFFFFF
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8
    return (masked & 0xFFFFFFFF).to_bytes(4, "little")


@functools.cache
def _crc_tables():
    """`[512, 256]`: what a byte adds to the CRC when 0, 1, ... bytes follow it."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    tables = [table]
    for _ in range(511):
        tables.append(tables[-1] >> 8 ^ table[tables[-1] & 0xFF])
    return np.stack(tables)
