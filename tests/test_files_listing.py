"""Laws of listing: what was named is there once, in order, and no two images go to the same place."""

import os
from pathlib import Path

import pytest

from datool.errors import DatoolError
from datool.files import list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*inputs: str, **options) -> list[str]:
    return [str(file.path) for file in list_images(inputs, **options)]


def relatives(*inputs: str, **options) -> list[str]:
    return [str(file.relative) for file in list_images(inputs, **options)]


def test_a_folder_is_mirrored_and_sorted(here: Path) -> None:
    touch(
        here, "in/b.jpg", "in/a.PNG", "in/sub/deep/c.webp", "in/sub/a.jpg", "in/notes.txt", "in/clip.mp4", "in/aa/z.tif"
    )
    expected = ["a.PNG", "b.jpg", "aa/z.tif", "sub/a.jpg", "sub/deep/c.webp"]
    assert relatives("in") == relatives("in/") == relatives("./in") == relatives(str(here / "in")) == expected
    assert paths("in") == [f"in/{name}" for name in expected]


def test_hidden_files_and_leftovers_of_archives_are_skipped(here: Path) -> None:
    touch(here, "in/a.jpg", "in/._a.jpg", "in/.cache/b.jpg", "in/__MACOSX/c.jpg", "in/.hidden.png")
    assert relatives("in") == relatives("in/**/*.jpg") == relatives("in/*") == ["a.jpg"]
    assert relatives("in/.cache") == ["b.jpg"], "named itself, it is meant"


def test_folders_named_like_images_are_folders(here: Path) -> None:
    touch(here, "in/album.jpg/a.png")
    assert relatives("in") == ["album.jpg/a.png"]
    assert relatives("in/*.jpg") == ["album.jpg/a.png"]


def test_links_in_a_circle_end(here: Path) -> None:
    touch(here, "in/sub/a.jpg")
    (here / "in/sub/up").symlink_to(here / "in")
    (here / "in/self").symlink_to(here / "in/self")
    (here / "in/other").symlink_to(here / "in/sub")
    assert len(relatives("in")) == 1
    assert len(relatives("in/**/*.jpg")) == 1
    assert len(relatives("in/**")) == 1


def test_linked_folders_are_followed_and_linked_files_are_files(here: Path) -> None:
    touch(here, "real/a.jpg")
    (here / "in").mkdir()
    (here / "in/folder").symlink_to(here / "real")
    (here / "in/b.jpg").symlink_to(here / "real/a.jpg")
    (here / "in/broken.jpg").symlink_to(here / "gone.jpg")
    assert relatives("in") == ["b.jpg", "broken.jpg", "folder/a.jpg"]


def test_named_files_are_kept_in_order_whatever_they_are(here: Path) -> None:
    touch(here, "z.jpg", "a.jpg", "no-suffix", "page.html")
    assert relatives("z.jpg", "no-suffix", "a.jpg", "page.html") == ["z.jpg", "no-suffix", "a.jpg", "page.html"]
    assert relatives("gone.jpg", "a.jpg") == ["gone.jpg", "a.jpg"], "reading it fails with a reason"


def test_the_same_file_is_listed_once(here: Path) -> None:
    touch(here, "in/a.jpg", "in/b.jpg")
    assert paths("in/b.jpg", "in", str(here / "in"), "./in/../in/a.jpg", "in/*.jpg") == ["in/b.jpg", "in/a.jpg"]


def test_globs(here: Path) -> None:
    touch(here, "in/a.jpg", "in/b.png", "in/x/c.jpg", "in/x/y/d.jpg", "in/n.txt")
    assert relatives("in/*.jpg") == ["a.jpg"]
    assert relatives("in/**/*.jpg") == ["a.jpg", "x/c.jpg", "x/y/d.jpg"]
    assert relatives("*/x/*.jpg") == ["in/x/c.jpg"]
    assert relatives("in/?.*") == ["a.jpg", "b.png"], "images only"
    assert relatives("in/[b-z]*") == ["b.png", "x/c.jpg", "x/y/d.jpg"], "matched folders are entered"
    assert relatives(str(here / "in" / "**" / "d.*")) == ["x/y/d.jpg"]


def test_a_name_with_glob_characters_is_a_name(here: Path) -> None:
    touch(here, "[1].jpg", "1.jpg", "a*.jpg", "dir[x]/b.jpg")
    assert relatives("[1].jpg") == ["[1].jpg"]
    assert relatives("a*.jpg") == ["a*.jpg"]
    assert relatives("dir[x]") == ["b.jpg"]


def test_lists(here: Path) -> None:
    touch(here, "set/a.jpg", "set/sub/b c.jpg", "elsewhere/d.jpg", "cwd.jpg")
    (here / "set/list.txt").write_bytes("\ufeffsub/b c.jpg\r\n\r\na.jpg\ncwd.jpg\ngone.jpg".encode())
    assert paths("set/list.txt") == ["set/sub/b c.jpg", "set/a.jpg", "cwd.jpg", "set/gone.jpg"]
    assert relatives("set/list.txt") == ["sub/b c.jpg", "a.jpg", "cwd.jpg", "gone.jpg"]


def test_lists_of_absolute_paths_keep_what_they_do_not_share(here: Path) -> None:
    touch(here, "x/1/a.jpg", "x/2/a.jpg", "lists/n")
    (here / "lists/l.txt").write_text(f"{here}/x/1/a.jpg\n{here}/x/2/a.jpg\n")
    assert relatives("lists/l.txt") == ["1/a.jpg", "2/a.jpg"]
    (here / "lists/l.txt").write_text("../x/1/a.jpg\n../x/2/a.jpg\n")
    assert relatives("lists/l.txt") == ["1/a.jpg", "2/a.jpg"]


def test_a_list_may_name_folders(here: Path) -> None:
    touch(here, "in/sub/a.jpg", "b.jpg")
    (here / "l.txt").write_text("in\nb.jpg\n")
    assert sorted(relatives("l.txt")) == ["b.jpg", "sub/a.jpg"]


@pytest.mark.parametrize(
    "stdin",
    [["in/a.jpg\n", "in/b b.jpg\n"], ["in/a.jpg", "in/b b.jpg"], ["in/a.jpg\nin/b b.jpg"], ["in/a.jpg\0in/b b.jpg\0"]],
)
def test_stdin_by_line_or_by_nul(here: Path, stdin: list[str]) -> None:
    touch(here, "in/a.jpg", "in/b b.jpg")
    assert relatives("-", stdin=stdin) == ["in/a.jpg", "in/b b.jpg"]


def test_nul_separated_names_may_hold_newlines(here: Path) -> None:
    touch(here, "new\nline.jpg", "🦊.jpg")
    assert relatives("-", stdin=["new\n", "line.jpg\0🦊.jpg\0"]) == ["new\nline.jpg", "🦊.jpg"]


def test_inputs_with_the_same_names_do_not_meet(here: Path) -> None:
    touch(here, "a/x.jpg", "a/y.jpg", "b/x.jpg", "c/z.jpg")
    assert relatives("a", "b", "c") == ["a/x.jpg", "a/y.jpg", "b/x.jpg", "z.jpg"]
    assert relatives("a/x.jpg", "b/x.jpg", "a/y.jpg") == ["a/x.jpg", "b/x.jpg", "y.jpg"]


def test_inputs_with_the_same_folder_name_are_numbered(here: Path) -> None:
    touch(here, "1/a/x.jpg", "2/a/x.jpg", "3/a/x.jpg", "4/a-2/x.jpg")
    assert relatives("1/a", "2/a", "3/a") == ["a/x.jpg", "a-2/x.jpg", "a-3/x.jpg"]
    everything = relatives("1/a", "4/a-2", "2/a", "3/a")
    assert len(set(everything)) == 4
    assert everything == relatives("1/a", "4/a-2", "2/a", "3/a")


def test_the_output_folder_is_left_out(here: Path) -> None:
    touch(here, "in/a.jpg", "in/depth/a.png", "in/depth/sub/b.png")
    out = here / "in" / "depth"
    assert relatives("in", exclude=out) == ["a.jpg"]
    assert relatives("in/**/*.*", "in/*", exclude=out) == ["a.jpg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing", "no such file or folder: nothing"),
        ("empty", "no image in folder empty"),
        ("*.jpg", r"no image matches \*\.jpg"),
        ("void.txt", "the list void.txt names no image"),
        ("gone.txt", "cannot read the list gone.txt"),
        ("-", "stdin names no image"),
        ("folders.txt", "no image in the folders that folders names: empty"),
    ],
)
def test_an_input_that_matches_nothing_is_named(here: Path, given: str, message: str) -> None:
    (here / "empty").mkdir()
    touch(here, "void.txt", "empty/readme.md", "a.png")
    (here / "folders.txt").write_text("empty\n")
    with pytest.raises(DatoolError, match=message):
        list_images(["a.png", given], stdin=[])


def test_a_folder_that_cannot_be_read_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(here, "in/a.jpg", "in/locked/b.jpg")
    scandir = os.scandir

    def deny(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DatoolError, match="cannot list folder in/locked: Permission denied"):
        list_images(["in"])
