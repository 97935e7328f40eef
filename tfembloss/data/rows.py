"""What may stand in the place of a row: what is wrong with it."""


class BadRow(ValueError):
    """What is wrong with a row, and how many lines it is below the row's first."""

    def __init__(self, message, lines_below=0):
        super().__init__(message)
        self.lines_below = lines_below


def short(value):
    """What stands in a message of a value."""
    try:
        text = repr(value[:80] if isinstance(value, str | list) else value)
    except RecursionError:
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def is_unicode(text):
    """Whether a string can be written as UTF-8, which half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
