"""An export takes the place of an earlier one whole, and of nothing else."""

import json
import os
import shutil
import signal

import pytest

from tfembloss.export import folders


def write(path, text="new"):
    """What an export does, without a model."""
    path = folders.checked_path(path)
    folders.check_folder(path)
    with folders.replaced(path) as new:
        (new / "variables").mkdir(parents=True)
        (new / "assets").mkdir()
        (new / "saved_model.pb").write_text(text)
        (new / "variables" / "variables.index").write_text(text)
        (new / "assets" / "vocab.txt").write_text(text)


def read(path):
    texts = [(path / n).read_text() for n in ("saved_model.pb", "assets/vocab.txt")]
    assert len(set(texts)) == 1
    return texts[0]


def killed(step, path):
    """Another process writes the folder, and is killed when `step` has been done."""
    if (child := os.fork()) == 0:
        try:
            owner, name = step
            do = getattr(owner, name)

            def then_killed(*args, **kwargs):
                do(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(owner, name, then_killed)
            write(path)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(
    ("step", "left"),
    [
        ((folders, "_locked"), "old"),
        ((json, "dumps"), "old"),
        ((shutil, "copymode"), "old"),
        ((folders, "_exchange"), None),
        ((os, "rename"), None),
        ((folders, "_put"), "new"),
    ],
    ids=lambda step: step[1] if isinstance(step, tuple) else "",
)
def test_a_killed_export_leaves_a_whole_model(tmp_path, monkeypatch, exchange, step, left):
    path = tmp_path / "model"
    write(path, "old")
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    elif not _can_exchange(tmp_path) or step[1] == "rename":
        pytest.skip("one step does it")
    killed(step, path)
    assert os.listdir(tmp_path) != ["model"]
    if exchange:
        assert read(path) == (left or "new")  # at each moment
    if path.exists() and left:
        assert read(path) == left
    with pytest.raises(RuntimeError), folders.replaced(path):
        raise RuntimeError  # it is brought back even where the next one fails, too
    assert read(path) in ("old", "new")
    write(path, "next")
    assert read(path) == "next"
    assert os.listdir(tmp_path) == ["model"]


def _can_exchange(folder):
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    done = folders._exchange(one, other)
    one.rmdir()
    other.rmdir()
    return done


def test_files_of_the_users_own_are_never_replaced(tmp_path):
    path = tmp_path / "model"
    for name in ("NOTES.md", "assets/mine.txt", "results/r.txt", "variables/old.data"):
        write(path)
        file = path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
        with pytest.raises(ValueError, match=f"more than an export wrote: .*{name}"):
            write(path)
        assert file.read_text() == "precious"
        shutil.rmtree(path)
    write(path)
    (path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        write(path)
    (path / "empty").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link"):
        write(path)


def test_files_that_appear_while_it_is_written_are_kept(tmp_path):
    path = tmp_path / "model"
    write(path, "old")
    with pytest.raises(ValueError, match="late"), folders.replaced(path) as new:
        new.mkdir()
        (path / "late.txt").write_text("precious")
    assert read(path) == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_an_export_without_a_list_is_replaced_and_what_only_looks_like_one_is_not(tmp_path):
    path = tmp_path / "model"
    write(path, "old")
    (path / folders.CONTENTS).unlink()
    with pytest.raises(ValueError, match=r"assets/vocab\.txt"):
        write(path)  # which may be the user's
    (path / "assets" / "vocab.txt").unlink()
    write(path)
    assert read(path) == "new"
    (path / folders.CONTENTS).write_text("{")
    with pytest.raises(ValueError, match=folders.CONTENTS):
        write(path)
    for name in ("saved_model.pb", "variables/variables.index"):
        other = tmp_path / name.partition("/")[0].partition(".")[0]
        (other / name).parent.mkdir(parents=True)
        (other / name).write_text("mine")
        if name != "saved_model.pb":
            with pytest.raises(ValueError, match="something else"):
                write(other)


def test_links(tmp_path):
    real, link, dangling = (tmp_path / name for name in ("real", "link", "dangling"))
    write(real, "old")
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "nowhere")
    write(link)
    write(dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert read(real) == read(link) == read(dangling) == "new"
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(ValueError, match="Expected a"):
        write(circle)


def test_one_at_a_time(tmp_path):
    path = tmp_path / "model"
    with folders.replaced(path) as new:
        new.mkdir()
        with pytest.raises(ValueError, match="another one is being written"):
            write(path)
        (new / "saved_model.pb").write_text("first")
    assert (path / "saved_model.pb").read_text() == "first"
    assert os.listdir(tmp_path) == ["model"]


def test_what_cannot_be_written_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "model"):
        with pytest.raises(
            (ValueError, OSError), match=r"Expected a folder|Could not write"
        ):
            write(path)
    path = tmp_path / "model"
    write(path, "old")
    path.chmod(0o750)
    message = r"Could not write .* No space left.*unchanged"
    with pytest.raises(OSError, match=message), folders.replaced(path) as new:
        new.mkdir()
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    rename = os.rename

    def fails(one, other):
        if os.path.basename(one) == "new":
            raise OSError(5, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Could not write"):
        write(path)
    assert read(path) == "old"
    monkeypatch.setattr(os, "rename", rename)
    write(path)
    assert path.stat().st_mode & 0o777 == 0o750
    assert sorted(os.listdir(tmp_path)) == ["file", "model"]
