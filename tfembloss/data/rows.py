"""A bad row, which takes the place of a row that cannot be read."""


class BadRow(ValueError):
    """What is wrong with a row, and how many lines below the row's first line."""

    def __init__(self, message, lines_below=0):
        super().__init__(message)
        self.lines_below = lines_below


def short(value):
    """Returns the repr of a value for a message, truncated if it is long."""
    try:
        text = repr(value[:80] if isinstance(value, str | list) else value)
    except RecursionError:
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def is_unicode(text):
    """Returns whether a string can be encoded as UTF-8; half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
