"""Readers against files written by csv, json, gzip and TensorFlow, and by chance."""

import csv
import gzip
import io
import json
import pathlib
import tempfile
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfembloss import data
from tfembloss.data import files

KIND = "query-article"
ROWS = {
    "query-article": [("how old?", "seven"), ("where, or when?", 'so "called"')],
    "query-article-irrelevant_article": [("a", "b\nb", "c"), ("ä\u2028", "漢字", "🙂")],
    "query-article-score": [("a", "b", 0.5), ("c", "d", -3.0)],
    "article-label": [("a", "7"), ("b", "007")],
    "text-image": [("a cat", "images/cat.png"), ("a dog", "images/dog, big.png")],
    "text": [("how old?",), ("where, or when?",)],
}
FORMATS = ("csv", "tsv", "txt", "jsonl", "ndjson", "tfrecord", "tfrecords")


def as_csv(rows, delimiter=",", line_end="\r\n"):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    return file.getvalue().encode()


def as_json_lines(rows, names):
    lines = (json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def example(values):
    def feature(value):
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        value = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {name: feature(value) for name, value in values.items()}
    row = tf.train.Example(features=tf.train.Features(feature=features))
    return row.SerializeToString(deterministic=True)


def as_tf_records(records):
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for record in records:
                writer.write(record)
        return pathlib.Path(file.name).read_bytes()


def written(rows, names, ending):
    if ending in ("csv", "tsv", "txt"):
        return as_csv(rows, {"csv": ",", "tsv": "\t", "txt": ";"}[ending])
    if ending in ("jsonl", "ndjson"):
        return as_json_lines(rows, names)
    return as_tf_records(example(dict(zip(names, row, strict=True))) for row in rows)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def read_all(path, kind="query-article", **options):
    return list(data.read_rows(path, kind, **options))


def read_and_skip(path, kind="query-article", **options):
    """The rows, how many were left out, of how many, and the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = read_all(path, kind, bad_rows="skip", **options)
    if not caught:
        return rows, 0, len(rows), ""
    (warning,) = caught
    text = str(warning.message)
    counts = text.split(": left out ")[1].split(".")[0].split(" bad rows of ")
    return rows, int(counts[0]), int(counts[1]), text


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("kind", ROWS)
def test_rows_come_back(write, kind, ending, gz):
    names, rows = kind.split("-"), ROWS[kind]
    path = write(f"rows.{ending}{gz}", written(rows, names, ending))
    assert read_all(path, kind) == rows
    mine = [f"my {name}" for name in names]
    shuffled = [(*row[::-1], "more") for row in rows]
    content = written(shuffled, [*mine[::-1], "other"], ending)
    if ending in ("csv", "tsv", "txt"):
        content = written([[*mine[::-1], "other"], *shuffled], [], ending)
    path = write(f"named.{ending}{gz}", content)
    assert read_all(path, kind, columns=mine) == rows
    assert read_all([path, path], kind, columns=mine) == rows * 2


@pytest.mark.parametrize("kind", ROWS)
def test_elements_are_what_fit_takes(write, kind):
    rows = ROWS[kind]
    path = write("rows.jsonl", as_json_lines(rows, kind.split("-")))
    dataset = data.read(path, kind)
    for _ in range(2):
        for element, row in zip(dataset, rows, strict=True):
            values = [part.numpy() for part in tf.nest.flatten(element)]
            assert [v.decode() if isinstance(v, bytes) else v for v in values] == [*row]
    text = tf.TensorSpec([], tf.string)
    assert (
        dataset.element_spec
        == {
            "query-article": ((text, text),),
            "query-article-irrelevant_article": ((text, text, text),),
            "query-article-score": ((text, text), tf.TensorSpec([], tf.float32)),
            "article-label": (text, text),
            "text-image": ((text, text),),
            "text": text,
        }[kind]
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl", "tfrecord"])
def test_labels_as_integers(write, ending):
    rows = [("a", 7), ("b", -(2**63))]
    path = write(f"rows.{ending}", written(rows, ["article", "label"], ending))
    assert read_all(path, "article-label", label_dtype="int64") == rows
    assert read_all(path, "article-label")[0] == ("a", "7")
    labels = [y.numpy() for _, y in data.read(path, "article-label", label_dtype="int64")]
    assert labels == [7, -(2**63)] and labels[0].dtype == np.int64


def test_many_rows_and_files_go_through_chunks(write):
    rows = [(f"q{i}", f"a{i}") for i in range(3000)]
    paths = [write(f"{i}.csv", as_csv(rows[i::2])) for i in range(2)]
    found = [
        tuple(map(bytes.decode, pair)) for (pair,) in map_numpy(data.read(paths, KIND))
    ]
    assert found == rows[::2] + rows[1::2]


def map_numpy(dataset):
    return (tf.nest.map_structure(lambda x: x.numpy(), element) for element in dataset)


@pytest.mark.parametrize(
    "name, content, rows",
    [
        ("a.csv", "article,query\nA,q\n", [("q", "A")]),
        ("a.csv", "\ufeffquery,article\r\nq,A", [("q", "A")]),
        ("a.csv", "\n\r\nq,A\n\n\nr,B", [("q", "A"), ("r", "B")]),
        ("a.csv", "q;A, and\nr;B\ns;C", [("q", "A, and"), ("r", "B"), ("s", "C")]),
        ("a.csv", '"a;b",c\n"d;e",f', [("a;b", "c"), ("d;e", "f")]),
        ("a.tsv", "q, s\tA\nr, t\tB", [("q, s", "A"), ("r, t", "B")]),
        ("a.csv", "q|A\nr|B", [("q", "A"), ("r", "B")]),
        ("a.txt", '"a""b\nc"\t"d"', [('a"b\nc', "d")]),
        ("a.csv", "a\rb,c\x0bd\x85e\u2028f\n", [("a\rb", "c\x0bd\x85e\u2028f")]),
        (
            "a.jsonl",
            '["a", "b"]\n\n{"article": "d", "query": "c"}',
            [("a", "b"), ("c", "d")],
        ),
    ],
)
def test_what_files_look_like(write, name, content, rows):
    assert read_all(write(name, content)) == rows


@pytest.mark.parametrize(
    "name, content, options, texts",
    [
        (
            "a.txt",
            'text\nso, "it" is\r\n\n"x\n\ty;|',
            {},
            ["text", 'so, "it" is', '"x', "\ty;|"],
        ),
        ("a.txt.gz", "a\nText\n", {}, ["a", "Text"]),
        ("a.txt", "a\n'b, c'\n", {}, ["a", "'b, c'"]),
        ("a.txt", '"a;b"\nc', {"delimiter": ";"}, ["a;b", "c"]),
        ("a.txt", "id;body\n1;a, b", {"columns": ["body"]}, ["a, b"]),
        ("a.csv", 'text\n"a, b"\n"c\nd"', {}, ["a, b", "c\nd"]),
        ("a.csv", 'body\n"a, b"\nc', {"columns": ["body"]}, ["a, b", "c"]),
        ("a.csv", "a|b\tc\n", {}, ["a|b\tc"]),
        ("a.tsv", "a, b\nc;d", {}, ["a, b", "c;d"]),
        ("a.jsonl", '["a"]\n{"text": "b"}', {}, ["a", "b"]),
    ],
)
def test_texts_alone(write, name, content, options, texts):
    path = write(name, content)
    assert read_all(path, "text", **options) == [(text,) for text in texts]
    found = [
        text.decode() for text in data.read(path, "text", **options).as_numpy_iterator()
    ]
    assert found == texts


def test_quotes_may_be_text(write):
    path = write("a.tsv", '5" tall\t"so"\n"x\ty\n')
    assert read_all(path, quotes=False) == [('5" tall', '"so"'), ('"x', "y")]


GOOD = "a,b\nc,d\n"
BAD = {
    "fields": ("x.csv", GOOD + "e,f,g\n", "line 3: Expected 2 fields .*Received 3"),
    "quote in a field": ("x.csv", GOOD + 'e,5" f\n', "line 3: .*within a field.*column 3"),
    "text after quotes": ("x.csv", GOOD + 'e,"f" g\n', "line 3: .*after the closing quote"),
    "open quote": ("x.csv", GOOD + 'e,"f\n', "line 3: .*does not close.*column 3"),
    "open below": ("x.csv", GOOD + '"e\ne",f\n"g","h\n', "line 5: .*does not close"),
    "empty": ("x.csv", GOOD + "e,\n", "line 3: .*as article. Received an empty"),
    "blank": ("x.csv", GOOD + "  ,f\n", "line 3: .*as query. Received an empty"),
    "NUL": ("x.csv", GOOD + "e,f\0\n", "line 3: .*NUL"),
    "Latin-1": ("x.csv", GOOD.encode() + b"e,f\xe9\n", "line 3: .*0xe9 in column 4"),
    "Latin-1 below": (
        "x.csv",
        GOOD.encode() + b'e,"f\ng\xe9"\n',
        "line 4: .*0xe9 in column 2",
    ),
    "long": ("x.csv", GOOD + "e," + "f" * 100 + "\n", "line 3: .*max_row_bytes=50"),
    "long, quotes": (
        "x.csv",
        GOOD + '"e","' + "f" * 100 + '"\n',
        "line 3: .*max_row_bytes=50",
    ),
    "no JSON": ("x.jsonl", '["a", "b"]\n{"a"\n', "line 2: Expected JSON.*column 5"),
    "JSON lacks": ("x.jsonl", '{"query": "a"}\n', "line 1: .*query, article"),
    "JSON scalar": ("x.jsonl", "3\n", "line 1: Expected an object"),
    "JSON type": ("x.jsonl", '["a", 3]\n', "line 1: Expected str as article.*int"),
    "JSON twice": ("x.jsonl", '{"query": "a", "query": "b"}\n', "each name once"),
    "JSON surrogate": ("x.jsonl", '["a", "\\ud800"]\n', "surrogate"),
    "JSON digits": ("x.jsonl", "9" * 5000 + "\n", "line 1: .*max_row_bytes|Expected JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_can_be_left_out(write, case):
    name, content, message = BAD[case]
    path = write(name, content)
    options = {"max_row_bytes": 50}
    with pytest.raises(ValueError, match=f"(?s)x[.].*{message}"):
        read_all(path, **options)
    with pytest.raises(ValueError, match=r"bad_rows="):  # at the call
        data.read(path, KIND, **options)
    rows, bad, total, warning = read_and_skip(path, **options)
    assert bad == 1 and total == len(rows) + 1
    assert all(row in [("a", "b"), ("c", "d"), ("e\ne", "f")] for row in rows)
    assert path.name in warning and "line" in warning


@pytest.mark.parametrize("score", ["nan", "inf", "1e39", "1_0", "0,5x", "x", "-1e999"])
def test_scores_are_finite_numbers(write, score):
    path = write("x.tsv", f"a\tb\t 0.5\na\tb\t{score}\n")
    with pytest.raises(ValueError, match=r"line 2: Expected a finite.*score"):
        read_all(path, "query-article-score")
    path = write("x.jsonl", '["a", "b", NaN]\n["a", "b", true]\n["a", "b", 1e400]\n')
    assert read_and_skip(path, "query-article-score")[:3] == ([], 3, 3)


@pytest.mark.parametrize("label", ["x", "1.0", str(2**63), "9" * 5000, "1_0"])
def test_integer_labels_are_integers(write, label):
    path = write("x.csv", f"a,1\na,{label}\n")
    with pytest.raises(ValueError, match=r"line 2: Expected an integer as label"):
        read_all(path, "article-label", label_dtype="int64")


def test_deep_json_is_a_bad_row(write):
    assert read_and_skip(write("x.jsonl", "[" * 100_000))[:3] == ([], 1, 1)


PAIR = example({"query": "a", "article": "b"})


@pytest.mark.parametrize(
    "record, message",
    [
        (b"no example", "Expected a tf.train.Example"),
        (example({"query": "a"}), "none for .'article'"),
        (example({"query": "a", "article": 3}), "one value as article, in bytes_list"),
        (example({"query": "a", "article": b"\xff"}), "UTF-8 as article"),
        (example({"query": "a", "article": "b" * 100}), "max_row_bytes=60"),
        (example({"query": "a", "article": ""}), "empty"),
    ],
)
def test_bad_records(write, record, message):
    path = write("x.tfrecord", as_tf_records([PAIR, record, PAIR]))
    with pytest.raises(ValueError, match=f"x.tfrecord, record 2: .*{message}"):
        read_all(path, max_row_bytes=60)
    rows, *counts, _ = read_and_skip(path, max_row_bytes=60)
    assert rows == [("a", "b")] * 2 and counts == [1, 3]


def test_damaged_records(write):
    content = as_tf_records([PAIR, PAIR, PAIR])
    size = len(content) // 3
    for place in range(size, 2 * size, 5):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path = write("x.tfrecord", damaged)
        for options in ({}, {"bad_rows": "skip"}):  # what comes after cannot be found
            with pytest.raises(ValueError, match=r"x.tfrecord, record 2: .*damaged"):
                read_all(path, **options)
    for end in range(size + 1, 2 * size, 5):
        with pytest.raises(ValueError, match=r"x.tfrecord, record 2: .*truncated"):
            read_and_skip(write("x.tfrecord", content[:end]))


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_gzip_that_is_damaged_is_an_error_always(write, bad_rows):
    rows = [(str(i), str(i * i)) for i in range(5000)]
    path = write("x.csv.gz", as_csv(rows))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-6] ^= 1
    for content in (whole[:-2000], whole[:-1], damaged):
        path.write_bytes(content)
        found = []
        with pytest.raises(ValueError, match=r"x.csv.gz, after line \d+: .*whole gzip"):
            found.extend(data.read_rows(path, KIND, delimiter=",", bad_rows=bad_rows))
        found = []
        with pytest.raises(ValueError, match=r"gzip"):
            for row in data.read_rows(path, KIND, bad_rows=bad_rows):
                found.append(row)
        assert len(found) > 1000 and found[:1000] == rows[:1000]
    for content in (b"a,b\n", whole[:5]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x.csv.gz.*gzip"):
            data.read(path, KIND, bad_rows=bad_rows)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_other_encodings(write, encoding):
    path = write("x.csv", GOOD.encode(encoding))
    with pytest.raises(ValueError, match=r"x.csv, line 1.*UTF-16"):
        data.read(path, KIND)


@pytest.mark.parametrize(
    "content, options, message",
    [
        (
            "a,b,c\n",
            {},
            "a.txt, line 1: Expected first rows of the fields query, article.*Pass delim",
        ),
        (
            "a,b\n",
            {"columns": ("q", "a")},
            "Expected a header with the fields q, a .*Received.*'a', 'b'",
        ),
        ("q,a,a\n1,2,3", {"columns": ("q", "a")}, "one column 'a'"),
        ("q,a\n", {"columns": ("q", "a")}, "at least one row"),
        ("query,article\n", {}, "at least one row. Received: a header alone"),
        ("", {}, "at least one row"),
        ("\n\n", {}, "at least one row"),
        ("a,b;c\n", {}, "a.txt: Expected one delimiter"),
        ("a,b\n", {"delimiter": ";"}, "line 1: Expected 2 fields"),
        ("a,b\n", {"delimiter": '"'}, "one character"),
        ("a,b\n", {"columns": "ab"}, "columns of 2 names"),
        ("a,b\n", {"columns": ["a"]}, "columns of 2 names"),
        ("a,b\n", {"columns": {"a": 0, "b": 1}}, "list or tuple columns of 2 names"),
        ("a,b\n", {"columns": ["a", 1]}, "columns of 2 names"),
        ("a,b\n", {"columns": 2}, "columns of 2 names"),
        ("a,b\n", {"columns": ["a", "a"]}, "a different column for each field"),
        ("a,b\n", {"columns": ["a", "b"], "header": False}, "or header=False"),
        ("a,b\n", {"header": "yes"}, "header True, False or None.*'yes'"),
        ("a,b\n", {"quotes": "no"}, "quotes True or False.*'no'"),
        ("a,b\n", {"delimiter": 9}, "one character.*delimiter=9"),
        ("a,b\n", {"label_dtype": "int32"}, "label_dtype"),
        ("a,b\n", {"bad_rows": "ignore"}, "bad_rows"),
        ("a,b\n", {"max_row_bytes": 0}, "`max_row_bytes` must be an integer >= 1"),
        ("a,b\n", {"max_row_bytes": None}, "integer >= 1.*max_row_bytes=None"),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_call(write, content, options, message):
    with pytest.raises(ValueError, match=message):
        data.read(write("a.txt", content), KIND, **options)


def test_arguments(write):
    path = write("a.csv", GOOD)
    with pytest.raises(ValueError, match=r"article-label.*kind='query'"):
        data.read(path, "query")
    with pytest.raises(FileNotFoundError, match=r"b.csv"):
        data.read([path, "b.csv"], KIND)
    with pytest.raises(ValueError, match=r"at least one file"):
        data.read([], KIND)
    for paths in (None, 3, [None], {path: 1}, {path}, io.StringIO("a"), tf.constant("a")):
        with pytest.raises(ValueError, match=r"path"):
            data.read(paths, KIND)
    with pytest.raises(ValueError, match=r"ends in .csv.*x.parquet"):
        data.read(write("x.parquet", ""), KIND)
    with pytest.raises(TypeError, match=r"quoting"):
        data.read_rows(path, KIND, quoting=3)


def test_a_late_bad_row_arrives_after_the_rows_before_it(write):
    rows = [(str(i), "a") for i in range(1500)]
    path = write("x.csv", as_csv([*rows, ("bad",), *rows]))
    found = 0
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"x.csv, line 1501: Expected"):
        for _ in data.read(path, KIND):
            found += 1
    assert found == 1500
    skipping = data.read(path, KIND, bad_rows="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"left out 1 bad rows of 3001.*line 1501"):
            assert sum(1 for _ in skipping) == 3000


def test_an_open_quote_does_not_swallow_the_file(write):
    lines = [f"q{i},a{i}" for i in range(5000)]
    lines[17] = 'q17,"a17'
    path = write("x.csv", "\n".join(lines))
    with pytest.raises(ValueError, match=r"x.csv, line 18: .*does not close.*column 5"):
        read_all(path)
    rows, bad, total, _ = read_and_skip(path, max_row_bytes=1000)
    assert (len(rows), bad, total) == (4999, 1, 5000)


def test_one_huge_line_takes_no_memory(write):
    path = write("x.csv", GOOD + "x" * 50_000_000 + "\ne,f\n")
    tracemalloc.start()
    rows, bad, total, _ = read_and_skip(path, delimiter=",")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [("a", "b"), ("c", "d"), ("e", "f")] and (bad, total) == (1, 4)
    assert peak < 10_000_000


# Headers.

TRIPLET = "query-article-irrelevant_article"
SCORED = "query-article-score"


@pytest.mark.parametrize("ending", ["csv", "json"])
@pytest.mark.parametrize(
    "kind, header, row, expected",
    [
        (KIND, "question,answer", "how?,so", ("how?", "so")),
        (KIND, "Answer,QUESTION", "so,how?", ("how?", "so")),
        (KIND, "Article, Query", "so,how?", ("how?", "so")),
        (KIND, "title,text", "a b.,c d.", ("a b.", "c d.")),
        (KIND, "query,title", "a b.,c d.", ("a b.", "c d.")),
        (KIND, "id,Passage,anchor,url", "1,so,how?,x.y", ("how?", "so")),
        (KIND, ",question1,question2", "0,how?,so", ("how?", "so")),
        (TRIPLET, "anchor,positive,negative", "a,b,c", ("a", "b", "c")),
        (TRIPLET, "negative,hypothesis,premise", "c,b,a", ("a", "b", "c")),
        (TRIPLET, "Irrelevant Article,article,query", "c,b,a", ("a", "b", "c")),
        (SCORED, "sentence1,sentence2,similarity_score", "a,b,1", ("a", "b", 1.0)),
        (SCORED, "score,sentence_B,sentence_A", "1,b,a", ("a", "b", 1.0)),
        (SCORED, "id,is_duplicate,text2,text1", "9,1,b,a", ("a", "b", 1.0)),
        ("article-label", "label,text", "colour,red", ("red", "colour")),
        ("article-label", "Class,Sentences", "colour,red", ("red", "colour")),
        ("article-label", "class_name,image,article", "c,x.png,red", ("red", "c")),
        ("text-image", "image,caption", "a.png,red", ("red", "a.png")),
        ("text-image", "file_name,title", "a.png,red", ("red", "a.png")),
        ("text", "sentence", "red", ("red",)),
        ("text", "id,label,Document", "1,2,red", ("red",)),
    ],
)
def test_known_names_in_any_order_are_columns(write, kind, header, row, expected, ending):
    if ending == "csv":
        assert read_all(write("a.csv", f"{header}\n{row}\n"), kind) == [expected]
        return
    names, cells = header.split(","), row.split(",")
    cells = [
        float(cell) if name in ("score", "similarity_score", "is_duplicate") else cell
        for name, cell in zip(names, cells, strict=True)
    ]
    array = write("a.jsonl", f"{json.dumps(names)}\n{json.dumps(cells)}\n")
    assert read_all(array, kind) == [expected]
    row = dict(zip(names, cells, strict=True))
    assert read_all(write("b.jsonl", json.dumps(row)), kind) == [expected]
    records = write("c.tfrecord", as_tf_records([example(row)]))
    assert read_all(records, kind) == [expected]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "kind, rows, columns",
    [
        (KIND, "Frage;Antwort|Wie alt?;sieben", "'Frage', 'Antwort'"),
        (KIND, "Q;A|how old?;seven|where?;here", "'Q', 'A'"),
        (KIND, "retort;question|so;how?", "'question', 'retort'"),
        (KIND, "query;question|so;how?", "'query', 'question'"),
        (KIND, "question;answer;context|a;b;c", "'question', 'answer'"),
        (KIND, "caption;image|a;b", "'caption', 'image'"),
        (KIND, "0;1|how old?;seven", "'0', '1'"),
        (TRIPLET, "anchor;positive;other one|a;b;c", "'anchor', 'positive', 'other one'"),
        ("article-label", "label;thing|a;b", "'thing', 'label'"),
        ("article-label", "title;text;label|a;b;c", "'text', 'label'|'title', 'label'"),
        ("article-label", "Satz;Klasse|foo;3|bar;4", "'Satz', 'Klasse'"),
        ("text-image", "picture;words|a.png;red", "'words', 'picture'"),
        ("text", "Satz|Wie alt bist du?|Sieben, glaube ich.", "'Satz'"),
    ],
)
def test_what_may_be_a_header_is_refused(write, kind, rows, columns, ending):
    rows = [row.split(";") for row in rows.split("|")]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    path = write(f"a.{ending}", as_csv(rows) if ending == "csv" else content)
    for bad_rows in ("error", "skip"):
        message = rf"a.{ending}, line 1.*columns=\(({columns}),?\).*header=False"
        with pytest.raises(ValueError, match=message):
            data.read(path, kind, bad_rows=bad_rows)
    if len(rows[0]) == len(kind.split("-")):
        assert read_all(path, kind, header=False) == [*map(tuple, rows)]
    with pytest.raises(ValueError, match=r"columns="):
        read_all(write("b.csv", "x y,z.\na,b"), header=True)


@pytest.mark.parametrize(
    "kind, rows",
    [
        (KIND, "hello,world\nbig,small\nhow are you?,fine"),
        (KIND, "a question,an answer of some words, of which none is a name"),
        (KIND, "how old?,seven\nFrage,Antwort"),
        (KIND, "a,b\nc,\ufeffd"),
        (KIND, "0,1\n1,2"),
        (KIND, "label,a small piece of paper that says what is in the box"),
        ("article-label", "good,positive\nbad,negative"),
        ("article-label", "great,positive\nthis was long and bad.,positive"),
        ("article-label", "who was he?,question\nhe was there.,text"),
        ("article-label", "cat,label\ndog,label"),
        ("article-label", "so it is,3\nwas it?,4"),
        ("text-image", "cat,cat.png\na very big dog of 3 years,dog.png"),
        ("text", "red shoes\nblue shoes\nwhat are shoes made of?"),
    ],
)
def test_rows_are_not_taken_for_headers(write, kind, rows):
    rows = [tuple(row.split(",", len(kind.split("-")) - 1)) for row in rows.split("\n")]
    assert read_all(write("a.csv", as_csv(rows)), kind) == rows


def test_header_may_be_told(write):
    path = write("a.csv", "answer,question\nso,how?\nanswer,question\n")
    assert read_all(path, header=True) == [("how?", "so"), ("question", "answer")]
    with pytest.raises(ValueError, match=r"a.csv, line 3: .*the header again.*header=True"):
        read_all(path)
    assert read_all(path, header=False)[0] == ("answer", "question")
    assert read_all(write("a.txt", "x\ny\n"), "text", header=True) == [("y",)]
    path = write("a.jsonl", '["b", "a"]\n["so", "how?"]\n')
    assert read_all(path, columns=("a", "b")) == [("how?", "so")]


def test_names_of_objects_do_not_change_within_a_file(write):
    path = write(
        "a.jsonl", '{"question": "a", "title": "b"}\n{"title": "c", "text": "d"}\n'
    )
    assert read_and_skip(path)[:3] == ([("a", "b")], 1, 2)
    path = write("a.jsonl", '{"question": "a", "answer": "b", "context": "c"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: .*columns="):
        read_all(path)


def test_a_header_in_one_file_alone(write):
    swapped = write("0.csv", "answer,question\nso,how?\n")
    bare = write("1.csv", "so,how are you?\n")
    with pytest.raises(ValueError, match=r"1.csv: Expected a header, as .*0.csv"):
        data.read([swapped, bare], KIND)
    ordered = write("2.csv", "question,answer\nhow?,so\n")
    objects = write("3.jsonl", '{"question": "how?", "answer": "so"}')
    assert read_all([ordered, write("4.csv", "how?,so\n")]) == [("how?", "so")] * 2
    assert read_all([swapped, objects, ordered]) == [("how?", "so")] * 3


# What happens to files.


def test_byte_order_marks_of_joined_files(write):
    bom = "\ufeff"
    joined = f'{bom}query,article\na,b\n{bom}c,d\r\n{bom}\n{bom}"e","f\n{bom}g"\n{bom}'
    expected = [("a", "b"), ("c", "d"), ("e", f"f\n{bom}g")]
    assert read_all(write("a.csv", joined)) == expected
    joined = f'{bom}["a", "b"]\n{bom}{bom}["c", "d"]\n{bom}'
    assert read_all(write("a.jsonl.gz", joined)) == [("a", "b"), ("c", "d")]
    assert read_all(write("a.txt", f"{bom}a\n{bom}b"), "text") == [("a",), ("b",)]
    twice = f"{bom}query,article\na,b\n" * 2
    with pytest.raises(ValueError, match=r"a.csv, line 3: .*the header again"):
        read_all(write("a.csv", twice))


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.csv.gz"])
def test_lone_carriage_returns(write, name):
    rows = '["a", "b"]\r["c", "d"]\r' if "json" in name else "a,b\rc,d\re,f\r"
    kind = "text" if name == "a.txt" else KIND
    message = rf"{name}, line 1: Expected lines that end in .*alone in column \d"
    with pytest.raises(ValueError, match=message):
        read_all(write(name, rows), kind)
    with pytest.raises(ValueError, match=message):
        read_all(write(name, rows * 100), kind, max_row_bytes=30)
    cut = '["a", "b"]\r\n["c", "d"]\r' if "json" in name else "a,b\r\nc,d\r"
    if kind == KIND:  # the line feed of the last line is cut off
        assert read_all(write(name, cut)) == [("a", "b"), ("c", "d")]
    assert read_all(write("b.csv", '"a\rb",c')) == [("a\rb", "c")]
    assert read_all(write("b.csv", "a,b\r\r\nc,d\r\r\n")) == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("name, num", [("a.csv", 6_000_000), ("a.jsonl.gz", 1_000_000)])
def test_many_empty_lines_take_neither_time_nor_memory(write, name, num):
    row = '["a", "b"]' if "json" in name else "a,b"
    path = write(name, f"{row}\n" + "\n\r\n" * num + f"{row}\n3\n")
    tracemalloc.start()
    start = time.process_time()
    rows = data.read_rows(path, KIND, bad_rows="skip", delimiter=",")
    assert next(rows) == next(rows) == ("a", "b")
    with pytest.warns(UserWarning, match=f"line {2 * num + 3}: "):
        assert not list(rows)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 8 and peak < 10_000_000


def test_the_first_row_that_is_bad_is_named_where_few_fit(write):
    joined = b"a,b\n" + "c,d\n".encode("utf-16")
    with pytest.raises(ValueError, match=r"a.csv, line 2: Expected UTF-8"):
        read_all(write("a.csv", joined))


def test_empty_lines_within_quotes(write):
    path = write("a.csv", 'a,"b\n\n\r\n\nc"\n\n\nd\n\ne,"f\n\ng,h\n')
    rows, bad, total, warning = read_and_skip(path, delimiter=",")
    assert rows == [("a", "b\n\n\r\n\nc"), ("g", "h")] and (bad, total) == (2, 4)
    assert "line 8: Expected 2 fields" in warning
    with pytest.raises(ValueError, match=r"line 3: .*does not close"):
        read_all(write("a.csv", 'a,b\n\ne,"f\n\ng,h\n'))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_that_is_gone_or_another(write, ending):
    path = write(f"a.{ending}", written([("a b.", "c")] * 3, KIND.split("-"), ending))
    dataset, rows = data.read(path, KIND), data.read_rows(path, KIND)
    path.unlink()
    with pytest.raises(ValueError, match=rf"a.{ending}.*No such file.*removed"):
        next(rows)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"a.{ending}.*removed"):
        next(iter(dataset))
    with pytest.raises(FileNotFoundError, match=rf"a.{ending}"):
        data.read(path, KIND)
    if ending in ("csv", "tsv", "txt"):
        write(path.name, written([("article", "query"), ("c", "a")], [], ending))
        with pytest.raises(ValueError, match=rf"a.{ending}, line 1: .*has changed"):
            read_all_of(data.read_rows(path, KIND), path, "other\n")


def read_all_of(rows, path, content):
    path.write_text(content)
    return list(rows)


@pytest.mark.parametrize("length", [2**20, 2**31, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("at", [0, 1])
def test_lengths_of_records_are_not_believed(write, length, gz, at):
    header = length.to_bytes(8, "little")
    header += masked_crc(header).to_bytes(4, "little")
    path = write(f"a.tfrecord{gz}", as_tf_records([PAIR] * at) + header + b"x" * 100)
    tracemalloc.start()
    for bad_rows in ("error", "skip"):
        with pytest.raises(ValueError, match=rf"record {at + 1}: .*{length} .*100 follow"):
            read_all(path, bad_rows=bad_rows, max_row_bytes=2**62)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def masked_crc(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_long_record_takes_no_memory(write):
    long = example({"query": "a", "article": b"b" * 50_000_000})
    path = write("a.tfrecord", as_tf_records([PAIR, long, PAIR]))
    del long
    tracemalloc.start()
    assert read_and_skip(path)[:3] == ([("a", "b")] * 2, 1, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("size", [0, 1, 3, 4, 127, 128, 129, 131, 1000, 2**16, 2**16 + 200])
def test_records_of_any_size(write, size):
    record = example({"query": "a", "article": "b", "more": "c" * size})
    assert read_all(write("a.tfrecord", as_tf_records([record]))) == [("a", "b")]


def test_long_rows_go_to_tensorflow_a_few_at_once():
    rows = [("a" * 10**6, "b")] * 9 + [("c", "d")] * 2000
    sizes = [len(queries) for queries, _ in files._chunks(iter(rows), 2)]
    assert sizes == [3, 3, 3, 1024, 976]


# By chance.

fuzz = settings(max_examples=60, deadline=None, derandomize=True)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(
    lambda text: text.strip()
)
NASTY = st.text('",;\t|\n\r a\u00e9', min_size=1).filter(lambda text: text.strip())
PAIRS = st.lists(st.tuples(TEXT | NASTY, TEXT | NASTY), min_size=1, max_size=8).filter(
    lambda rows: set(rows[0]) != {"query", "article"}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(
    rows=PAIRS, delimiter=st.sampled_from(",\t;|"), line_end=st.sampled_from(["\n", "\r\n"])
)
def test_any_text_comes_back(folder, rows, delimiter, line_end):
    file = io.StringIO()
    csv.writer(
        file, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL
    ).writerows(rows)
    for name, content in {
        "x.csv": file.getvalue().encode(),
        "x.jsonl": as_json_lines(rows, ["query", "article"]),
        "x.csv.gz": gzip.compress(file.getvalue().encode()),
    }.items():
        (folder / name).write_bytes(content)
        found = read_all(folder / name, delimiter=delimiter, header=False)
        assert found == rows
    (folder / "x.csv").write_bytes(as_csv(rows, delimiter))
    assert read_all(folder / "x.csv", delimiter=delimiter, header=False) == rows


def reads(path, **options):
    """Reads, and lets only the ValueError through that names the file."""
    for bad_rows in ("error", "skip"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_all(path, bad_rows=bad_rows, **options)
        except ValueError as error:
            assert type(error) is ValueError and path.name in str(error)


@fuzz
@given(
    content=st.binary() | st.text('",\n\r\t;[]{}:\\u0123abquery\ufeff').map(str.encode),
    ending=st.sampled_from(["csv", "tsv", "txt.gz", "jsonl", "tfrecord", "csv.gz"]),
    packed=st.booleans(),
)
def test_any_bytes_are_read_or_refused(folder, content, ending, packed):
    path = folder / f"any.{ending}"
    path.write_bytes(gzip.compress(content) if packed else content)
    reads(path)
    reads(path, delimiter=",")
    reads(path, columns=("a", "b"))


@fuzz
@given(
    rows=PAIRS,
    ending=st.sampled_from(["csv", "jsonl", "tfrecord"]),
    gz=st.sampled_from(["", ".gz"]),
    mutation=st.sampled_from(["insert", "delete", "flip", "cut", "bom"]),
    bad=st.sampled_from([b'"', b"\0", b"\xff", b"x" * 300, b"\n", b",", b"\r"]),
    where=st.floats(0, 1),
)
def test_mutated_files_are_read_or_refused(folder, rows, ending, gz, mutation, bad, where):
    if ending == "tfrecord":
        rows = rows[:2]
    content = written(rows, ["query", "article"], ending)
    content = gzip.compress(content, mtime=0) if gz else content
    place = int(where * (len(content) - 1))
    head, tail = content[:place], content[place:]
    mutated = {
        "insert": head + bad + tail,
        "delete": head + tail[1:],
        "flip": head + bytes([tail[0] ^ 32]) + tail[1:],
        "cut": head,
        "bom": b"\xff\xfe" + content,
    }[mutation]
    path = folder / f"mutated.{ending}{gz}"
    path.write_bytes(mutated)
    reads(path, max_row_bytes=200)


@fuzz
@given(content=st.binary(max_size=60) | st.text('[]",ab\n').map(str.encode))
def test_no_line_is_dropped_without_being_counted(folder, content):
    *lines, last = content.split(b"\n")
    num_lines = sum(line not in (b"", b"\r") for line in lines) + (last != b"")
    if not num_lines or content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return
    for name, options in {
        "counted.jsonl": {},
        "counted.csv": {"delimiter": ",", "quotes": False},
    }.items():
        (folder / name).write_bytes(content)
        rows, bad, total, _ = read_and_skip(folder / name, **options)
        assert len(rows) + bad == total == num_lines


def split_slowly(text):
    """Records of lines of `,`, `"` and letters, character by character; None is bad."""
    lines, records, first = text.split("\n"), [], 0
    while first < len(lines):
        if not lines[first]:
            first += 1
            continue
        rest = "\n".join(lines[first:])
        fields, i, start = [], 0, 0
        while True:
            start, value = i, ""
            is_quoted = rest[i : i + 1] == '"'
            ok = not is_quoted
            i += is_quoted
            while i < len(rest):
                if is_quoted and rest[i : i + 2] == '""':
                    value, i = value + '"', i + 2
                elif is_quoted and rest[i] == '"':
                    ok, i = True, i + 1
                    break
                elif not is_quoted and rest[i] in ',\n"':
                    break
                else:
                    value, i = value + rest[i], i + 1
            fields.append(value)
            if not ok or rest[i : i + 1] not in ("", ",", "\n"):
                fields, end = None, start
                break
            if rest[i : i + 1] != ",":
                end = i
                break
            i += 1
        records.append(fields)
        first += 1 + rest.count("\n", 0, end)
    return records


@settings(fuzz, max_examples=300)
@given(content=st.text('",ab\n', max_size=40).filter(lambda text: text.strip("\n")))
def test_quotes_against_a_slow_parser(folder, content):
    expected = split_slowly(content)
    good = [
        tuple(row) for row in expected if row and len(row) == 2 and all(map(str.strip, row))
    ]
    (folder / "quotes.csv").write_bytes(content.encode())
    rows, bad, total, _ = read_and_skip(folder / "quotes.csv", delimiter=",", header=False)
    assert (rows, total) == (good, len(expected)) and bad == total - len(rows)
