"""The checkpoint of a training run: one file in its own folder, replaced atomically."""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
import weakref

import numpy as np

_FORMAT = 1
_FILE, _UNFINISHED = "checkpoint.npz", "checkpoint.npz.tmp"


class _Lock:
    """Locks a folder for this process, until the object is garbage collected."""

    def __init__(self, folder):
        descriptor = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "Expected a backup_dir of this training only. Received: backup_dir="
                f"{str(folder)!r}, which another process uses. Wait until it has ended, "
                "or choose another."
            ) from None
        except OSError:
            pass  # a file system without locks


_locks = weakref.WeakValueDictionary()  # of this process, by folder


def local_folder(path):
    """Returns the path of a local folder. Raises ValueError otherwise."""
    try:
        path = os.fspath(path)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "://" in path or "\0" in path:
        raise ValueError(
            f"`backup_dir` must be the path of a local folder. Received: {path!r}"
        )
    return pathlib.Path(path).expanduser().absolute()


def open_folder(folder):
    """Makes the folder, or checks that it is one of this callback; returns its lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = set(os.listdir(folder))
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = _locks.get(folder) or _locks.setdefault(folder, _Lock(folder))
    except OSError as error:
        raise ValueError(
            "Expected a folder that can be written. Received: backup_dir="
            f"{str(folder)!r} ({error})"
        ) from error
    others = sorted(names - {_FILE, _UNFINISHED})
    if others and _FILE not in names:
        raise ValueError(
            "Expected a folder of this callback only: a new one, an empty one, or one "
            f"with its checkpoint. Received: backup_dir={str(folder)!r} with "
            f"{len(others)} other files or folders, the first of them {others[0]!r}."
        )
    return lock


def write(folder, place, arrays):
    """Replaces the last checkpoint atomically."""
    unfinished = folder / _UNFINISHED
    try:
        with unfinished.open("wb") as file:
            named = {str(i): array for i, array in enumerate(arrays)}
            place = json.dumps({**place, "format": _FORMAT})
            np.savez(file, place=np.array(place), **named)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / _FILE)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(
            f"The checkpoint could not be written to {str(folder)!r} ({error}). The "
            "previous one, if any, is still there."
        ) from error


def read(folder):
    """Returns the place and the arrays of a checkpoint, or None if there is none."""
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            place = json.loads(archive["place"].item())
            if place["format"] != _FORMAT:
                raise ValueError(f"format {place['format']}, expected {_FORMAT}")
            _check_place(place)
            arrays = [archive[str(i)] for i in range(len(place["variables"]))]
        return place, arrays
    except Exception as error:  # numpy and zipfile fail in many ways on damaged files
        raise ValueError(
            "Expected a checkpoint written by ResumableCheckpoint. Received: "
            f"{str(path)!r}, which is damaged or something else "
            f"({type(error).__name__}: {error}). Delete it to start from scratch."
        ) from error


def _check_place(place):
    counts = [place[name] for name in ("first_epoch", "epoch", "calls")]
    numbers = [*counts, place["trace"], *place["traces"]]
    if any(type(number) is not int for number in numbers) or min(counts) < 0:
        raise ValueError(f"an invalid position in the data: {place}")
    for description in place["variables"]:
        if not {"group", "name", "path", "shape", "dtype"} <= description.keys():
            raise ValueError(f"an incomplete description of a variable: {description}")


def remove(folder):
    """Removes what this callback wrote, and the folder if it is then empty."""
    for name in (_FILE, _UNFINISHED):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
