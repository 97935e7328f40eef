"""Rows from CSV, TSV, JSON lines and TFRecord files, gzipped or not."""

import io
import itertools
import os
import warnings

import numpy as np
import tensorflow as tf

from tfembloss.checks import integer
from tfembloss.data.column_datasets import as_element
from tfembloss.data.formats import HEAD, open_file, readable
from tfembloss.data.rows import BadRow, short

_KINDS = (
    "article-label",
    "query-article",
    "query-article-irrelevant_article",
    "query-article-score",
    "text",
    "text-image",
)
_CHUNK = 1024  # rows that go to TensorFlow at once,
_CHUNK_SIZE = 2**21  # or fewer, if together they have more characters than this
_MAX_SCORE = float(np.finfo(np.float32).max)


def read(
    paths,
    kind,
    *,
    columns=None,
    header=None,
    delimiter=None,
    quotes=True,
    label_dtype="string",
    bad_rows="error",
    max_row_bytes=2**20,
):
    r"""Reads files as a dataset of rows, in memory that does not grow with the files.

    | kind | element |
    |---|---|
    | `"query-article"` | `((query, article),)` |
    | `"query-article-irrelevant_article"` | `((query, article, irrelevant_article),)` |
    | `"query-article-score"` | `((query, article), score)`, float32 |
    | `"article-label"` | `(article, label)` |
    | `"text-image"` | `((text, image),)`, the image's path as written in the file |
    | `"text"` | `text`, for models that learn from texts alone |

    The parts of the kind's name are the names of its fields. The file's extension
    determines the format. All files are UTF-8:

    - `.csv`, `.tsv`, `.txt`: fields in the order of the header, or without a header in
      that of the kind. A field that contains the delimiter, a line end or a `"` is
      enclosed in quotes, and each `"` within it is doubled; quotes enclose whole fields
      only. For the kind `"text"`, each line of a `.txt` file is one text, unless `columns`
      or a delimiter is given.
    - `.jsonl`, `.ndjson`: objects, or arrays, which are read like the rows of a table.
    - `.tfrecord`, `.tfrecords`: `tf.train.Example` with features of these names, each with
      one value: bytes for text, int64 or bytes for a label, float for a score.

    Column names are those in `columns`, or else the names of the fields, or else common
    names for them, in any case and with any separators: question, anchor, premise,
    sentence1 (query), answer, positive, passage, sentence2 (article), negative, text,
    caption, class, similarity, file_name and more. If two columns match a field, it is an
    error. A first row of such names is a header; a first row that looks like a header of
    unknown names is an error that says how to read it.

    Files of any format may be gzipped; their names then end in `.gz`. Lines end in `\n` or
    `\r\n`; empty lines are skipped, and a byte order mark before a row is not part of the
    text. Other columns and names are not read.

    Args:
        paths: a file, or a list of files.
        kind: one of the kinds above.
        columns: the file's column names for the kind's fields, in their order, such as
            `("frage", "antwort")`. By default they are recognized.
        header: whether the first row of a table or of arrays names the columns, True or
            False. By default it is inferred from the rows. With True, a later row equal to
            the header is data; by default it is a bad row, as in concatenated files.
        delimiter: the character between fields. By default it is comma, tab, semicolon or
            `|`: the one with which most of the first 20 rows have the expected fields; the
            tab if several do. For the kind `"text"` without `columns`, it is the comma in
            `.csv` and the tab in `.tsv`.
        quotes: False if a `"` is a character like any other, and every line is a row.
        label_dtype: `"string"`, or `"int64"` for labels that are integers.
        bad_rows: `"error"`, or `"skip"` to leave them out and to warn, at the end of each
            pass, how many there were in each file. Python's default warning filters show
            the same warning once.
        max_row_bytes: the maximum size of a row in a file, > 0. Nothing longer is held in
            memory, whatever lengths a file declares.

    Returns:
        A `tf.data.Dataset` of single rows: continue with `.shuffle(...).batch(...)`, for
        images after a `.map` that reads the path, such as
        `lambda x: ((x[0], tf.io.decode_image(tf.io.read_file(x[1]))),)`.
        The number of rows is unknown until they are read.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: none or more than one delimiter fits, a column is missing, the first
            row looks like a header of unknown names, a file without a header is read
            together with one whose columns are in another order, or one of a file's first
            20 rows is bad. A bad row has another number of fields, quotes that do not
            match, an empty field, a score that is not a finite number, a label of another
            type, JSON that is not an object with the fields, a NUL character, bytes that
            are not UTF-8, or more than `max_row_bytes`.
        tf.errors.InvalidArgumentError: a later row is bad, when it is reached, or by then
            the file was removed or its first row has changed. The message is that of the
            ValueError, and the rows before it have been yielded. What follows damage in a
            gzip file or in a TFRecord cannot be read, not even with `"skip"`.

    If a quote never closes, `"skip"` leaves out the lines up to the one where it opens.

    Example:

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = os.path.join(folder, "pairs.csv")
    >>> with open(path, "w") as file:
    ...     _ = file.write('frage,id,antwort\nhow old?,1,seven\nwhere?,2,"here, there"\n')
    >>> pairs = read(path, "query-article", columns=("frage", "antwort"))
    >>> for ((query, article),) in pairs.batch(2):
    ...     print(query.numpy(), article.numpy())
    [b'how old?' b'where?'] [b'seven' b'here, there']

    Relations:
        Finetuner's CSV files, pandas' `read_csv`, tf.data's `make_csv_dataset`; those do
        not report what they leave out.
    """
    make_rows = _checked(
        paths,
        kind,
        columns,
        header,
        delimiter,
        quotes,
        label_dtype,
        bad_rows,
        max_row_bytes,
    )
    fields = kind.split("-")
    dtypes = {"score": tf.float32, "label": tf.as_dtype(label_dtype)}
    signature = [tf.TensorSpec([None], dtypes.get(name, tf.string)) for name in fields]
    has_target = fields[-1] in dtypes
    num_texts = sum(spec.dtype == tf.string for spec in signature)  # they come first

    def element(*values):
        x, y = (values[:-1], values[-1:]) if has_target else (values, ())
        return as_element(x if len(x) > 1 else x[0], *y)

    return (
        tf.data.Dataset.from_generator(
            lambda: _chunks(make_rows(), num_texts), output_signature=tuple(signature)
        )
        .map(element)
        .unbatch()
    )


def read_rows(paths, kind, **options):
    r"""Reads the rows of files one by one, as Python values.

    Args:
        paths: a file, or a list of files.
        kind: a kind of data, as in `read`.
        **options: the other arguments of `read`.

    Returns:
        An iterator of tuples of the kind's fields, in their order: str for a text, float
        for a score, str or int for a label.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: as in `read`; here also if a later row is bad, when it is reached.

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


def _checked(
    paths,
    kind,
    columns,
    header,
    delimiter,
    quotes,
    label_dtype,
    bad_rows,
    max_row_bytes,
):
    """Checks the arguments and the first rows, and returns a function that reads all."""
    if kind not in _KINDS:
        raise ValueError(
            f"Expected a kind of data that can be read, one of {list(_KINDS)}. "
            f"Received: kind={kind!r}"
        )
    fields = kind.split("-")
    _check_columns(columns, fields)
    if not (header is None or isinstance(header, bool)) or not isinstance(quotes, bool):
        raise ValueError(
            "Expected header True, False or None, and quotes True or False. "
            f"Received: header={header!r}, quotes={quotes!r}"
        )
    if header is False and columns is not None:
        raise ValueError(
            "Expected columns=, which are names in a header, or header=False. Received "
            f"both: columns={columns!r}. Without a header the fields are in the order of "
            f"the kind: {', '.join(fields)}."
        )
    is_character = isinstance(delimiter, str) and len(delimiter) == 1
    if delimiter is not None and (not is_character or delimiter in '"\r\n'):
        raise ValueError(
            "Expected one character as delimiter, not a quote and not a line end. "
            f"Received: delimiter={delimiter!r}"
        )
    if label_dtype not in ("string", "int64") or bad_rows not in ("error", "skip"):
        raise ValueError(
            'Expected label_dtype "string" or "int64" and bad_rows "error" or "skip". '
            f"Received: label_dtype={label_dtype!r}, bad_rows={bad_rows!r}"
        )
    max_row_bytes = min(integer("max_row_bytes", max_row_bytes, 1), 2**62)
    paths = _listed(paths)

    convert = _converter(fields, label_dtype)
    files = []
    for path in map(os.fsdecode, paths):
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"Expected a file. Received: {path!r}, which is not one."
            )
        file = open_file(path, fields, columns, header, delimiter, quotes, max_row_bytes)
        files.append(file)
        _check_head(file, convert, bad_rows)
    _check_orders(files)
    return lambda: itertools.chain.from_iterable(
        _rows(file, convert, bad_rows) for file in files
    )


def _check_columns(columns, fields):
    """Checks that columns is None, or a name for each field."""
    if columns is None:
        return
    are_names = isinstance(columns, list | tuple) and all(
        isinstance(name, str) for name in columns
    )
    if not are_names or len(columns) != len(fields):
        raise ValueError(
            f"Expected a list or tuple columns of {len(fields)} names, for "
            f"{', '.join(fields)}. Received: columns={columns!r}"
        )
    if len({*columns}) < len(columns):
        raise ValueError(
            f"Expected a different column for each field. Received: columns={columns!r}"
        )


def _listed(paths):
    """Returns a list of the paths of one file or several."""
    if isinstance(paths, str | bytes | os.PathLike):
        return [paths]
    # Their elements are not paths, or have no order.
    if isinstance(paths, dict | set | frozenset | io.IOBase):
        raise ValueError(f"Expected the path of a file, or a list. Received: {paths!r}")
    try:
        paths = list(paths)
    except TypeError:
        raise ValueError(
            f"Expected the path of a file, or a list. Received: {paths!r}"
        ) from None
    for path in paths:
        if not isinstance(path, str | bytes | os.PathLike):
            raise ValueError(f"Expected paths of files. Received one that is {path!r}")
    if not paths:
        raise ValueError("Expected at least one file. Received: none.")
    return paths


def _check_orders(files):
    """Raises if the header of one file may have been meant for other files too."""
    headers = [(file.path, file.header) for file in files]
    moved = [path for path, header in headers if header.moves]
    bare = [path for path, header in headers if header.first and not header.names]
    if moved and bare:
        raise ValueError(
            f"{bare[0]}: Expected a header, as {moved[0]} has one with the columns in "
            "another order than the kind's. Received: none. Give each file a header, or "
            "read the files separately."
        )


def _check_head(file, convert, bad_rows):
    """Raises if one of the first rows is bad and that is an error, or if there is none."""
    if bad_rows == "error":
        head = list(itertools.islice(_rows(file, convert, bad_rows), HEAD))
    else:
        head = list(itertools.islice(readable(file.path, file.unit, file.rows()), 1))
    if not head:
        received = "a header alone" if file.header.names else "none"
        raise ValueError(f"{file.path}: Expected at least one row. Received: {received}.")


def _rows(file, convert, bad_rows):
    """Yields a file's rows, converted; a bad one is counted, or an error."""
    total = bad = 0
    first_bad = None
    try:
        for number, row in readable(file.path, file.unit, file.rows()):
            total += 1
            try:
                row = convert(row)
            except BadRow as error:
                message = f"{file.path}, {file.unit} {number + error.lines_below}: {error}"
                if bad_rows == "error":
                    raise ValueError(
                        f'{message} Fix it, or leave out bad rows with bad_rows="skip".'
                    ) from None
                first_bad = first_bad or message
                bad += 1
                continue
            yield row
    finally:  # also if the reader stops early
        if bad:
            warnings.warn(
                f"{file.path}: left out {bad} bad rows of {total}. The first: {first_bad}",
                stacklevel=2,
            )


def _chunks(rows, num_texts):
    """Yields rows in chunks, as tuples of columns; an error after the rows before it."""
    error = None
    while error is None:
        chunk, size = [], 0
        try:
            for row in itertools.islice(rows, _CHUNK):
                chunk.append(row)
                size += sum(map(len, row[:num_texts]))
                if size > _CHUNK_SIZE:
                    break
        except ValueError as found:
            error = found
        if chunk:
            yield tuple(map(list, zip(*chunk, strict=True)))
        elif error is None:
            return
    raise error


# From a row's cells to its values.


def _converter(fields, label_dtype):
    """Returns a function from a row's cells to its values; it raises a BadRow if bad."""
    to_label = _text if label_dtype == "string" else _integer
    converters = {"score": _score, "label": to_label}
    columns = [(converters.get(field, _text), field) for field in fields]

    def convert(row):
        if isinstance(row, BadRow):
            raise row
        cells = zip(columns, row, strict=True)
        return tuple([to_value(cell, field) for (to_value, field), cell in cells])

    return convert


def _text(cell, name):
    cell = str(cell)  # a label may be a number
    if not cell or cell.isspace():
        raise BadRow(f"Expected a text as {name}. Received an empty field.")
    if "\0" in cell:
        raise BadRow(
            f"Expected a text as {name}. Received a NUL character in {short(cell)}; a "
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
    raise BadRow(
        f"Expected a finite float32 number as {name}, with a decimal point. "
        f"Received: {short(cell)}."
    )


def _integer(cell, name):
    try:
        if -(2**63) <= (label := _number(int, cell)) < 2**63:
            return label
    except ValueError:
        pass
    raise BadRow(
        f"Expected an integer as {name}. Received: {short(cell)}. For labels that are "
        'texts set label_dtype="string".'
    )


def _number(dtype, cell):
    """Parses a number; unlike Python, refuses 1_000."""
    if isinstance(cell, str) and "_" in cell:
        raise ValueError("not a number")
    return dtype(cell)
