"""What `python -m pdoc --math -d google tfembloss` shows of a class.

Its constructor, and what it adds to its bases and has a text for: no hooks of Keras, no
attributes that repeat the constructor's arguments, no decorators. pdoc has no setting for
this on that command line, so its model of the classes of this package is told here.
"""

# What is first defined here and is for the package itself.
_INTERNAL = {
    "batch",
    "bins",
    "boundary",
    "by_tiles",
    "candidates",
    "compare",
    "counts",
    "encoder_inputs",
    "formula",
    "gaps",
    "logits",
    "miner_candidates",
    "options",
    "probabilities",
    "selected_pairs",
    "step_batch",
    "step_batches",
    "sums_and_counts",
    "takes_raw_inputs",
    "terms",
    "values",
    "weights_of_places",
}
# Of Keras, and with arguments or inputs of our own.
_EXTENDED = {"compile", "predict"}


def set_up(doc):
    """Makes pdoc leave out what a reader of the reference does not call.

    Args:
        doc: the module `pdoc.doc`.
    """
    members, decorators = doc.Class.members, doc.Class.decorators
    if isinstance(members, property):  # pdoc's server has loaded the package anew
        return
    doc.Class.members = property(lambda cls: _shown(cls, members.__get__(cls)))
    doc.Class.decorators = property(
        lambda cls: [] if _is_ours(cls) else decorators.__get__(cls)
    )


def _is_ours(member):
    return f"{member.taken_from[0]}.".startswith(f"{__package__}.")


def _shown(cls, members):
    if not _is_ours(cls):
        return members
    shown = {name: x for name, x in members.items() if _is_shown(cls, x)}
    constructor = shown.get("__init__")
    if constructor is not None:
        # Of this class, also where a base has it.
        constructor.taken_from = cls.modulename, f"{cls.qualname}.__init__"
        if constructor.docstring.startswith("Create new instance of"):  # a named tuple
            constructor.docstring = ""
    return shown


def _is_shown(cls, member):
    name = member.name
    if name == "__init__":
        return _is_ours(member)
    if member.is_inherited and member.taken_from[1] != f"{cls.taken_from[1]}.{name}":
        return False
    if name in _INTERNAL or not member.docstring:
        return False
    if member.docstring.startswith("Alias for field number"):  # of a named tuple
        return False
    return name in _EXTENDED or not any(name in vars(c) for c in cls.obj.__mro__[1:])
