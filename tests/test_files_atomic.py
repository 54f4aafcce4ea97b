"""Laws of writing: whole or not at all, and nothing left behind."""

import errno
import os
from pathlib import Path

import pytest

from datool.errors import DatoolError
from datool.files import write_bytes
from datool.files.atomic import append, whole


def test_writes_and_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["x.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a b", "new\nline", "🦊", "é" * 127 + "x", "x" * 255])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / name, b"1")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "shown", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, "No space left on device"), DatoolError, "disk full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DatoolError, "disk full"),
        (OSError(errno.EIO, "Input/output error"), DatoolError, "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), DatoolError, "no permission"),
    ],
)
def test_a_failure_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, shown: type, message: str | None
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(shown, match=message) as caught:
        write_bytes(path, b"new")
    if shown is DatoolError:
        assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "a folder has that name"),
        (lambda path: path.parent.rmdir() or path.parent.write_bytes(b""), "a file stands where a folder must go"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "out" / "x.bin"
    path.parent.mkdir()
    make(path)
    with pytest.raises(DatoolError, match=message):
        write_bytes(path, b"1")


def test_no_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(DatoolError, match="no permission"):
        write_bytes(tmp_path / "x", b"1")


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match="File name too long"):
        write_bytes(tmp_path / ("x" * 256), b"1")
    assert not os.listdir(tmp_path)


def test_a_named_temporary_is_taken_over_and_one_that_was_taken_away_is_told(tmp_path: Path) -> None:
    path, temporary = tmp_path / "x.bin", tmp_path / ".datool-7.tmp"
    temporary.write_bytes(b"what a killed run left")
    write_bytes(path, b"old", temporary)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.bin"]
    with pytest.raises(DatoolError) as caught, whole(path, temporary) as unfinished:
        unfinished.write_bytes(b"new")
        unfinished.unlink()
    cause = caught.value.__cause__
    assert isinstance(cause, FileNotFoundError) and cause.filename in (temporary, str(temporary))
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_not_made_for_a_named_temporary(tmp_path: Path) -> None:
    folder = tmp_path / "gone"  # such as a mount that went away
    with pytest.raises(DatoolError):
        write_bytes(folder / "x.bin", b"new", folder / ".datool-7.tmp")
    assert not folder.exists()


def test_appending_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n")
    append(path, b"2\n")
    assert path.read_bytes() == b"1\n2\n"
    with pytest.raises(DatoolError, match="nowhere"):
        append(tmp_path / "nowhere.jsonl", b"1\n")
    assert not (tmp_path / "nowhere.jsonl").exists()


def test_a_full_disk_is_told_when_appending() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(DatoolError, match="disk full"):
        append(Path("/dev/full"), b"1\n")
