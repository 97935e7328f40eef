"""Finds which column of a file is which field, from the names in its first row."""

import itertools
import re

from tfembloss.data.rows import BadRow, short

_TEXT = (
    "text sentence article document doc passage paragraph title caption content body "
    "description abstract review comment message tweet utterance headline question query"
)
_QUERY = (
    "query question anchor premise prompt instruction input source src title searchterm "
    "sentence1 sentencea text1 texta question1"
)
_ARTICLE = (
    "article answer positive pos hypothesis entailment document doc passage paragraph "
    "context response reply completion output target tgt title text sentence content body "
    "description abstract summary product sentence2 sentenceb text2 textb question2"
)
_IRRELEVANT = (
    "irrelevantarticle irrelevant negative neg hardnegative negativepassage "
    "negativedocument contradiction sentence3 sentencec text3"
)
_SCORE = (
    "score similarity sim similarityscore relatedness relatednessscore relevance rating "
    "grade label gold goldscore duplicate isduplicate"
)
_LABEL = "label labelid labelname labeltext class classid classname category intent topic"
_IMAGE = (
    "image img picture photo path file filename filepath imagepath imagefile imagename "
    "imageurl url"
)
# Common names of the fields in files, in lower case and without separators.
_KNOWN = {
    "query": _QUERY,
    "article": _ARTICLE,
    "irrelevant_article": _IRRELEVANT,
    "score": _SCORE,
    "label": f"{_LABEL} target tag",
    "text": _TEXT,
    "image": _IMAGE,
}
_KNOWN = {field: frozenset(names.split()) for field, names in _KNOWN.items()}
_LABELED = _KNOWN["text"] | {"article", "answer", "name", "product"}  # of labeled articles
_ANY = frozenset().union(*_KNOWN.values())
_NAME = re.compile(r"[^\W\d][\w-]*( [\w-]+){0,2}( ?[(\[][\w -]+[)\]])?")
_TEXTUAL = re.compile(
    r"\w\W*\s\W*\w|[.,;:?!\u2026\u3002\uff0c\uff1b\uff1a\uff1f\uff01]|^\s*[-+]?\d"
)
_LONGEST_NAME = 40


class Header:
    """The places of the columns according to the first row, or what is wrong with it.

    Args:
        rows: the first rows: lists of cells, if they can be read.
        fields: the kind's fields.
        columns: the file's names for them, or None.
        header: True, False, or None to infer it from the rows.
    """

    def __init__(self, rows, fields, columns, header):
        self.first = rows[0] if rows and isinstance(rows[0], list) else None
        self.names = self.places = self.problem = None
        self.is_missing = False
        self.again_is_bad = header is None
        if self.first is None or header is False:
            self.is_missing = columns is not None and header is not False
        elif columns:
            self._find(columns)
        else:
            rest = [row for row in rows[1:] if isinstance(row, list)]
            self._recognize(rest, fields, header)

    def _find(self, columns):
        if not {*columns} <= {*self.first}:
            self.is_missing = True
            self.problem = (
                f"Expected a header with the columns {list(columns)}. "
                f"Received: {short(self.first)}"
            )
            return
        for name in columns:
            if self.first.count(name) > 1:
                self.problem = (
                    f"Expected one column {name!r} in the header. "
                    f"Received: {short(self.first)}"
                )
        self._set([self.first.index(name) for name in columns])

    def _recognize(self, rest, fields, header):
        are_texts = all(isinstance(cell, str) for cell in self.first)
        places = known_places(self.first, fields) if are_texts else None
        size = len(self.first)
        num_fitting = sum(len(row) == size for row in rest)
        if places and (header or size == len(fields) or 2 * num_fitting >= len(rest)):
            self._set(places)
        elif header and size == len(fields) == 1:
            self._set([0])
        elif header or (size >= len(fields) and looks_like_names(self.first, rest, fields)):
            such = "(...)"
            self.is_missing = size < len(fields)
            if are_texts and not self.is_missing:
                such = f"{likely_names(self.first, fields)}"
            self.problem = (
                f"Expected rows of {', '.join(fields)}, or a header of names known for "
                f"them. Received: {short(self.first)}, which looks like a header of other "
                f"names. Pass those of {', '.join(fields)}, in this order, as columns="
                f"{such}; or, if it is a row, header=False."
            )

    def _set(self, places):
        self.names, self.places = self.first, list(places)

    @property
    def moves(self):
        """Whether the columns are in another order than the kind's fields."""
        return self.places is not None and self.places != [*range(len(self.names))]

    def skipped(self, path, rows):
        """Yields the numbered rows below the header, if the first row is still the same."""
        number, row = next(rows, (1, None))
        if self.first is not None and row != self.first:
            raise ValueError(
                f"{path}, line {number}: Expected the first row that the file had, "
                f"{short(self.first)}. Received: {short(row)}. The file has changed since "
                "it was opened: make the dataset again."
            )
        if row is not None and self.names is None:
            yield number, row
        yield from rows

    def picked(self, row):
        """Returns a row's cells in the order of the fields."""
        if self.places is None:
            return row
        if row == self.names and self.again_is_bad:
            return BadRow(
                f"Expected a row. Received the header again: {short(row)}, as in "
                "concatenated files. Remove it, or, if it is a row, pass header=True."
            )
        return [row[place] for place in self.places]


def known_names(names, fields):
    """Returns the file's name for each field, or None if that is ambiguous or unknown."""
    places = known_places(names, fields)
    return places and [names[place] for place in places]


def _normalized(name):
    """Returns a name in the form in which names are compared, whatever its separators."""
    return re.sub(r"[\s_-]+", "", name.strip(" \"'")).lower() if name else ""


def _is_known(name, known):
    return name in known or name.removesuffix("s") in known


def known_places(names, fields):
    """Returns each field's place among a file's names, or None if that is not certain."""
    own = [[place for place, name in enumerate(names) if name == field] for field in fields]
    found = [_normalized(name) for name in names]
    if not all(len(places) == 1 for places in own):
        own = [
            [place for place, name in enumerate(found) if name == _normalized(field)]
            for field in fields
        ]
    if not all(own):
        own = [
            [place for place, name in enumerate(found) if _is_known(name, known)]
            for known in _known(fields)
        ]
    ways = (way for way in itertools.product(*own) if len({*way}) == len(fields))
    first, second = next(ways, None), next(ways, None)
    return first if second is None else None


def _known(fields):
    """Returns the names known for each field, which depend on the kind."""
    is_labeled = "label" in fields
    return [
        _LABELED if is_labeled and field == "article" else _KNOWN[field] for field in fields
    ]


def looks_like_names(first, rest, fields):
    """Returns whether a first row of unknown names may be a header instead of a row."""
    cells = [cell.strip(" \"'") if isinstance(cell, str) else None for cell in first]
    rest = [row for row in rest if len(row) == len(first)]
    if cells == [str(i) for i in range(len(cells))]:  # pandas' default names
        return not any(all(map(str.isdecimal, map(str, row))) for row in rest)
    if not all(map(_is_name, cells)) or len({*cells}) < len(cells):
        return False
    if any(cell == other for row in rest for cell, other in zip(first, row, strict=True)):
        return False  # a name would not occur again below
    names = [_normalized(cell) for cell in cells]
    known = frozenset().union(*_known(fields))
    if any(_is_known(name, known) for name in names):
        return True
    if all(_is_known(name, _ANY) for name in names):
        return True
    return bool(rest) and all(cells) and all(any(map(_is_text, row)) for row in rest)


def _is_text(cell):
    """Whether it is unlikely to name a column: words, punctuation or a number."""
    return not _is_name(cell) and _TEXTUAL.search(str(cell)) is not None


def _is_name(cell):
    """Whether it may name a column; pandas leaves that of its index empty."""
    if not isinstance(cell, str) or len(cell) > _LONGEST_NAME:
        return False
    return not cell or _NAME.fullmatch(cell) is not None


def likely_names(names, fields):
    """Returns a file's names for the fields, as far as they can be guessed."""
    found = [_normalized(name) for name in names]
    taken = {}
    for field, known in zip(fields, _known(fields), strict=True):
        for place, name in enumerate(found):
            if place not in taken.values() and _is_known(name, known):
                taken[field] = place
                break
    left = (place for place in range(len(names)) if place not in taken.values())
    return tuple(names[taken[f] if f in taken else next(left, 0)] for f in fields)
