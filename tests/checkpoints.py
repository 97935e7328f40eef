"""The golden folders of pretrained checkpoints."""

import pathlib
import zipfile

GOLDEN = pathlib.Path(__file__).parent / "golden" / "pretrained.zip"


def unpack(folder, *names):
    """Writes all golden folders, or those of these names, into a folder; returns it."""
    with zipfile.ZipFile(GOLDEN) as archive:
        files = archive.namelist()
        wanted = [x for x in files if not names or x.split("/")[0] in names]
        archive.extractall(folder, wanted)
    return pathlib.Path(folder)
