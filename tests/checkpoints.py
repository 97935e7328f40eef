"""The golden folders of pretrained checkpoints."""

import pathlib
import zipfile

GOLDEN = pathlib.Path(__file__).parent / "golden"


def unpack(folder, *names, archive="pretrained"):
    """Writes all folders of an archive, or those of these names, into a folder."""
    with zipfile.ZipFile(GOLDEN / f"{archive}.zip") as file:
        wanted = [x for x in file.namelist() if not names or x.split("/")[0] in names]
        file.extractall(folder, wanted)
    return pathlib.Path(folder)
