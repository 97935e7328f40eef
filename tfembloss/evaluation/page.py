"""A page of queries with their nearest results, to look through in a browser."""

import base64
import html
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfembloss.checks import as_list, shown
from tfembloss.evaluation.inputs import (
    NO_RESULT,
    by_query,
    check_ranking,
    check_relevant,
)


def nearest_neighbors_page(
    path, queries, corpus, ranking, relevant=None, distances=None, title="Nearest results"
):
    """Writes an HTML page of queries with their nearest results, the relevant ones marked.

    It needs no other file and no network. A field searches in queries and results, and a
    switch shows the queries alone whose first result is wrong.

    Args:
        path: the file to write.
        queries: texts, or images `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, uint8 or 0 to 1;
            also a dict of id to these.
        corpus: likewise.
        ranking: row numbers (or ids) `[Q, K]` of the results of each query, best first, as
            `tfembloss.search.top_k` returns them.
        relevant: for each query the row (or id) that is relevant, or several, as in
            `retrieval_metrics`; None to mark nothing.
        distances: `[Q, K]`, shown with the results, as `top_k` returns them; or None.
        title: of the page.

    Raises:
        ValueError: numbers of queries differ, or a result is not in the corpus.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/page.html"
    >>> nearest_neighbors_page(path, ["a fruit"], ["the sky", "an apple"], [[1, 0]], [1])
    >>> "an apple" in open(path).read()
    True
    """
    query_ids, queries = _named(queries, "queries")
    corpus_ids, corpus = _named(corpus, "corpus")
    if isinstance(ranking, Mapping):
        ranking = [ranking.get(id, ()) for id in query_ids or range(len(queries))]
    if isinstance(relevant, Mapping):
        relevant = by_query(relevant, query_ids or range(len(queries)))
    rows, answers = _numbers(ranking, relevant, corpus_ids, len(queries), len(corpus))
    if distances is not None and np.shape(distances) != rows.shape:
        raise ValueError(
            f"Expected a distance for each result, of shape {rows.shape}. Received: shape "
            f"{np.shape(distances)}"
        )
    used = {row: place for place, row in enumerate(dict.fromkeys(rows.ravel().tolist()))}
    used.pop(NO_RESULT, None)
    data = {
        "queries": [_shown_item(item) for item in queries],
        "corpus": {str(row): _shown_item(corpus[row]) for row in used},
        "results": [[int(row) for row in of if row != NO_RESULT] for of in rows],
        "relevant": answers,
        "distances": None if distances is None else _rounded(distances),
    }
    # So that a text cannot end the script.
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    page = _PAGE.replace("{title}", html.escape(title)).replace("{data}", embedded)
    pathlib.Path(os.fspath(path)).write_text(page, "utf-8")


def _named(items, name):
    """Returns the ids of a dict, or None, and the items."""
    if isinstance(items, Mapping):
        return list(items), list(items.values())
    items = as_list(items, f"{name} as texts or images")
    if not items:
        raise ValueError(f"Expected {name} as texts or images. Received none.")
    return None, items


def _numbers(ranking, relevant, ids, num_queries, num_rows):
    """Returns results as row numbers `[Q, K]`, and lists of relevant ones, or None."""
    ranking = check_ranking(ranking)
    none = [np.zeros(0, "int64")] * len(ranking)
    given = none if relevant is None else check_relevant(relevant)
    for values, name in ((ranking, "ranking"), (given, "relevant")):
        if len(values) != num_queries:
            raise ValueError(
                f"Expected {name} of each of {num_queries} queries. Received: "
                f"{len(values)}."
            )
    if ids is not None:
        row_of = {id: row for row, id in enumerate(ids)} | {NO_RESULT: NO_RESULT}
        ranking, given = (
            [[_row(row_of, id) for id in of] for of in values]
            for values in (ranking, given)
        )
        ranking = check_ranking(ranking)
    elif isinstance(ranking, list) or any(isinstance(of, list) for of in given):
        raise ValueError(
            "Expected row numbers in ranking and relevant, as the corpus has no ids. "
            "Received: text ids. Pass row numbers, or the corpus as a dict of id to text."
        )
    if ranking.size and ranking.max() >= num_rows:
        raise ValueError(
            f"Expected results below the corpus's {num_rows} rows. Received: "
            f"{ranking.max()}"
        )
    return ranking, None if relevant is None else [list(map(int, of)) for of in given]


def _row(row_of, id):
    if id not in row_of:
        raise ValueError(f"Expected ids of the corpus. Received: {shown(id)}")
    return row_of[id]


def _rounded(distances):
    """Returns texts of numbers, as JSON has none for infinity."""
    return [[f"{x:.4g}" for x in of] for of in np.asarray(distances, "float64").tolist()]


def _shown_item(item):
    """Returns a text, or an image as {"image": its PNG as a data URL}."""
    if isinstance(item, str | bytes):
        return item.decode("utf-8", "replace") if isinstance(item, bytes) else item
    image = np.asarray(item)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype.kind not in "uif":
        raise ValueError(
            f"Expected a text, or an image [H, W, 1] or [H, W, 3]. Received: {shown(item)}"
        )
    if image.dtype.kind == "f":
        image = np.clip(image * 255, 0, 255).round()
    png = tf.io.encode_png(image.astype("uint8")).numpy()
    return {"image": "data:image/png;base64," + base64.b64encode(png).decode()}


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; color: #222; display: grid;
  grid-template: auto 1fr / minmax(16em, 1fr) 2fr; height: 100vh; }
header { grid-column: 1 / 3; padding: .7em 1em; border-bottom: 1px solid #ddd;
  display: flex; gap: 1em; align-items: center; flex-wrap: wrap; }
h1 { font-size: 1.1em; margin: 0; }
input[type=search] { font: inherit; padding: .25em .5em; min-width: 14em; }
ol { list-style: none; margin: 0; padding: 0; overflow-y: auto; }
#queries { border-right: 1px solid #ddd; }
li { padding: .5em 1em; border-bottom: 1px solid #eee; overflow-wrap: anywhere; }
#queries li { cursor: pointer; border-left: 5px solid transparent; }
#queries li.hit { border-left-color: #2a9d4a; }
#queries li.miss { border-left-color: #d1495b; }
#queries li[aria-selected=true] { background: #eef3fb; }
#results li.hit { background: #e6f5ea; }
#results .rank { color: #666; font-size: .85em; margin-right: .6em; }
#results .mark { color: #1d7a37; font-weight: 600; margin-left: .6em; }
img { max-height: 6em; vertical-align: middle; image-rendering: pixelated; }
</style>
<header><h1>{title}</h1>
<input type="search" id="search" placeholder="Search queries and results"
  aria-label="Search queries and results">
<label id="only"><input type="checkbox" id="wrong"> first result wrong</label>
<span id="count"></span></header>
<ol id="queries" role="listbox" aria-label="Queries"></ol>
<ol id="results" aria-label="Results"></ol>
<script type="application/json" id="data">{data}</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("queries");
const results = document.getElementById("results");
const search = document.getElementById("search"), wrong = document.getElementById("wrong");
const relevant = data.relevant && data.relevant.map(rows => new Set(rows));
if (!relevant) document.getElementById("only").remove();

function item(x) {
  if (typeof x === "string") return document.createTextNode(x || "(empty)");
  const image = document.createElement("img");
  image.src = x.image;
  return image;
}
function isHit(query, place) {
  return relevant && relevant[query].has(data.results[query][place]);
}
function text(x) { return typeof x === "string" ? x.toLowerCase() : ""; }
const words = data.queries.map((query, i) =>
  [text(query), ...data.results[i].map(row => text(data.corpus[row]))].join(" "));
const entries = data.queries.map((query, i) => {
  const entry = document.createElement("li");
  entry.setAttribute("role", "option");
  entry.tabIndex = 0;
  entry.append(item(query));
  if (relevant) entry.className = isHit(i, 0) ? "hit" : "miss";
  entry.onclick = () => show(i);
  entry.onkeydown = event => { if (event.key === "Enter") show(i); };
  list.append(entry);
  return entry;
});
function show(query) {
  entries.forEach((entry, i) => entry.setAttribute("aria-selected", i === query));
  results.replaceChildren(...data.results[query].map((row, place) => {
    const entry = document.createElement("li"), rank = document.createElement("span");
    rank.className = "rank";
    const distance = data.distances && data.distances[query][place];
    rank.textContent = `${place + 1}` + (data.distances ? `, distance ${distance}` : "");
    entry.append(rank, item(data.corpus[row]));
    if (isHit(query, place)) {
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.textContent = "relevant";
      entry.className = "hit";
      entry.append(mark);
    }
    return entry;
  }));
}
function filter() {
  let count = 0;
  entries.forEach((entry, i) => {
    entry.hidden = !words[i].includes(search.value.toLowerCase())
      || (wrong.checked && isHit(i, 0));
    count += !entry.hidden;
  });
  document.getElementById("count").textContent = `${count} of ${entries.length} queries`;
}
search.oninput = wrong.onchange = filter;
filter();
show(0);
</script>
"""
