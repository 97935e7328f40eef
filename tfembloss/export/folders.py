"""Atomic replacement of folders."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CONTENTS = "tfembloss_export.json"  # the names of all that an export wrote
_SAVED_MODEL = re.compile(
    r"saved_model\.pb|fingerprint\.pb|assets|variables"
    r"|variables/variables\.(index|data-\d{5}-of-\d{5})"
)


@contextlib.contextmanager
def replaced(path):
    """Yields a folder to fill, which replaces the one at `path` at the end.

    There is a complete folder at `path` at any time, the earlier one or the new one. If the
    system cannot exchange two folders in one step, and the process is killed between the
    two steps, the next call for the same path repairs this, and removes what was left.

    Args:
        path: as `checked_path` returns it.

    Raises:
        ValueError: see `check_folder`; or another process is writing to the path.
        OSError: the folder cannot be written. What was at `path` is still there.
    """
    try:
        with _work_folder(path) as folder:
            new = folder / "new"
            yield new
            names = sorted(_names(new))
            (new / CONTENTS).write_text(json.dumps({"files": names}, indent=1) + "\n")
            check_folder(path)  # again, as it may have changed during writing
            _put(new, path, folder / "old")
    except OSError as error:
        message = (
            f"Could not write the export to {str(path)!r}: {error.strerror or error}. It "
            "is written beside the folder and then takes its place, so the parent folder "
            "must be writable, with room for both. What was there before is unchanged."
        )
        details = (message,) if error.errno is None else (error.errno, message)
        raise OSError(*details) from error


def checked_path(path):
    """Returns an absolute local path without links. Raises ValueError otherwise."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or re.match(r"\w\w+:/", text):
        raise ValueError(
            f"Expected a local folder. Received: path={path!r}. Export to a local "
            "folder, then copy it."
        )
    try:
        return pathlib.Path(text).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, an unknown user's ~
        raise ValueError(
            f"Expected a local folder. Received: path={path!r}, which is not one: {error}"
        ) from error


def check_folder(path):
    """Checks that at the path there is nothing, an empty folder or an export."""
    if not os.path.lexists(path):
        return
    if os.path.ismount(path):
        raise ValueError(
            "Expected a folder that can be replaced as a whole. Received: "
            f"path={str(path)!r}, where a file system is mounted: choose a folder in it."
        )
    others = _not_of_an_export(path) if path.is_dir() else ["not a folder"]
    if others:
        listed = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise ValueError(
            "Expected a folder to write, a new one or that of an earlier export. "
            f"Received: path={str(path)!r}, which is something else or holds more than an "
            f"export wrote: {listed}. Choose another path, or remove what is there."
        )


def _names(folder):
    """Yields posix names of what is in a folder, without following symbolic links."""
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            yield pathlib.Path(root, name).relative_to(folder).as_posix()


def _not_of_an_export(folder):
    """Returns the names in a folder that no export wrote, [] for an empty folder."""
    names = sorted(_names(folder))
    try:
        written = set(json.loads((folder / CONTENTS).read_text())["files"]) | {CONTENTS}
    except (OSError, ValueError, KeyError, TypeError):
        # Written by a version that kept no list.
        written = {name for name in names if _SAVED_MODEL.fullmatch(name)}
        if "saved_model.pb" not in names:
            written = set()
    return [n for n in names if n not in written or (folder / n).is_symlink()]


@contextlib.contextmanager
def _work_folder(path):
    """Yields a hidden temporary folder beside `path`, of one process at a time."""
    folder = path.parent / f".{path.name}.tfembloss-export"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(folder, path)
    try:
        _put_right(folder, path)
        yield folder
    finally:
        _put_right(folder, path)
        with contextlib.suppress(OSError):
            folder.rmdir()
        if lock is not None:
            os.close(lock)


def _locked(folder, path):
    """Makes the folder, and locks it; the lock of a killed process is released."""
    while True:
        folder.mkdir(exist_ok=True)
        if fcntl is None:
            return None
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ValueError(
                f"Expected one export at a time to {str(path)!r}: another one is being "
                "written there now. Wait until it has finished, or choose another path."
            ) from None
        except OSError:  # a file system without locks
            return lock
        # Its last owner may have removed it between opening and locking.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(folder)):
                return lock
        os.close(lock)


def _put_right(folder, path):
    """Restores the folder that was moved away, and removes the rest."""
    new, old = folder / "new", folder / "old"
    if old.exists() and not (path.exists() and any(path.iterdir())):
        old.rename(path)
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)


def _put(new, path, old):
    """Moves the new folder to the path, and the earlier one to `new` or `old`."""
    if path.exists():
        shutil.copymode(path, new)
    if not path.exists() or not any(path.iterdir()):
        os.rename(new, path)
    elif not _exchange(new, path):
        os.rename(path, old)
        os.rename(new, path)


def _exchange(one, other):
    """Exchanges two folders in one step, if the system can; returns whether it did."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
