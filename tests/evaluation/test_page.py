"""The page of nearest results: its data, and what a browser makes of it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tfembloss.evaluation import nearest_neighbors_page

QUERIES = ["a fruit", "</script><b>blue</b>", "ghost"]
CORPUS = ["the sky", "an apple", "the sea", "never found"]
RANKING = [[1, 0], [2, 0], [2, 1]]
DISTANCES = [[0.1, 0.25], [0.2, 0.3], [0.3, 0.4]]


def data_of(path):
    page = path.read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def test_what_is_in_it(tmp_path):
    path = tmp_path / "page.html"
    nearest_neighbors_page(path, QUERIES, CORPUS, RANKING, [1, [0, 2], 1], DISTANCES)
    data = data_of(path)
    assert data["queries"] == QUERIES and data["results"] == RANKING
    assert data["corpus"] == {"0": "the sky", "1": "an apple", "2": "the sea"}
    assert data["relevant"] == [[1], [0, 2], [1]]
    assert data["distances"] == [["0.1", "0.25"], ["0.2", "0.3"], ["0.3", "0.4"]]
    nearest_neighbors_page(path, ["a"], ["b"], [[0]], None, np.array([[np.inf]], "float32"))
    assert data_of(path)["distances"] == [["inf"]]
    nearest_neighbors_page(path, QUERIES, CORPUS, RANKING, [1, [0, 2], 1], DISTANCES)
    page = path.read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "") and "<b>" not in page


def test_ids_and_images(tmp_path):
    path = tmp_path / "page.html"
    corpus = dict(zip("wxyz", CORPUS, strict=True))
    by_id = {"q1": ["x", "w"], "q0": ["y"]}
    queries = {"q0": "one", "q1": "two"}
    nearest_neighbors_page(path, queries, corpus, by_id, {"q0": "y", "q1": {"w"}})
    assert data_of(path)["results"] == [[2], [1, 0]]
    assert data_of(path)["relevant"] == [[2], [0]]
    ragged = {"q1": [7, 3], "q0": [3]}
    nearest_neighbors_page(path, queries, {3: "a", 7: "b"}, ragged, {"q0": 3, "q1": 7})
    assert data_of(path)["results"] == [[0], [1, 0]]
    images = np.zeros([2, 4, 4, 3], "uint8"), np.ones([2, 4, 4])
    nearest_neighbors_page(path, *images, [[0], [1]])
    assert data_of(path)["queries"][0]["image"].startswith("data:image/png;base64,")
    assert data_of(path)["relevant"] is None


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("ranking of each of 3 queries", [QUERIES, CORPUS, RANKING[:2]]),
        ("relevant of each of 3 queries", [QUERIES, CORPUS, RANKING, [1]]),
        ("below the corpus's 4 rows", [QUERIES, CORPUS, [[4], [0], [1]]]),
        ("the corpus has no ids", [["a"], ["b", "c"], [["d7", "d2"]], [["d2"]]]),
        ("the corpus has no ids", [["a"], ["b", "c"], [["d7", "d2"]]]),
        ("ids of the corpus.*'v'", [["a"], {"w": "text"}, [["v"]]]),
        ("a distance for each result", [QUERIES, CORPUS, RANKING, None, [[1]]]),
        ("texts or images", [[], CORPUS, []]),
        ("a text, or an image", [[3], CORPUS, [[0]]]),
    ],
)
def test_bad_arguments_are_named(tmp_path, message, arguments):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors_page(tmp_path / "page.html", *arguments)
    assert not (tmp_path / "page.html").exists()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_shows_the_query_that_is_clicked_and_searches(tmp_path):
    path = tmp_path / "page.html"
    nearest_neighbors_page(path, QUERIES, CORPUS, RANKING, [1, [0, 2], 1], DISTANCES)

    def dom(actions):
        acting = tmp_path / "acting.html"
        script = f"<script>{actions}</script>"
        acting.write_text(path.read_text("utf-8") + script, "utf-8")
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={tmp_path / 'user'}",
            "--dump-dom", acting.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.stdout

    click = 'document.querySelectorAll("#queries li")[1].click();'
    found = dom(click)
    results = re.search(r'<ol id="results".*?</ol>', found, re.S)[0]
    assert results.count("<li") == 2 and "the sea" in results and "an apple" not in results
    assert results.count(">relevant<") == 2 and "distance 0.2" in results
    assert "&lt;/script&gt;&lt;b&gt;blue" in found
    marks = re.findall(r'<li role="option".*?class="(\w+)"', found)
    assert marks == ["hit", "hit", "miss"]
    found = dom('search.value = "APPLE"; search.oninput();')
    assert "2 of 3 queries" in found  # one of them by its second result
    found = dom("wrong.checked = true; wrong.onchange();")
    assert "1 of 3 queries" in found
