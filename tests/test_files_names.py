"""Laws of output names: they mirror the inputs, never meet in any format, and do not depend on order."""

import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datool.errors import DatoolError
from datool.files import MAP_FORMATS, ImageFile, check_formats, output_path, plan_outputs

OUT = Path("out")


def plan(*relatives: str) -> list[str]:
    return [str(stem) for stem in plan_outputs([ImageFile(Path("in") / name, Path(name)) for name in relatives])]


def outputs(*relatives: str) -> list[str]:
    return [str(output_path(OUT, Path(stem), name)) for stem, name in product(plan(*relatives), MAP_FORMATS)]


def test_names_mirror_the_inputs() -> None:
    assert plan("a.jpg", "sub/b.JPEG", "no-suffix", "sub/a.jpg") == ["a", "sub/b", "no-suffix", "sub/a"]
    assert output_path(OUT, Path("sub/b.c"), "png16") == OUT / "sub" / "b.c.png"
    assert output_path(OUT, Path("a"), "color") == OUT / "a.color.png"


def test_colliding_names_keep_their_suffix() -> None:
    assert plan("a.jpg", "a.png", "b.jpg", "sub/a.jpg") == ["a.jpg", "a.png", "b", "sub/a"]


def test_names_that_only_differ_in_case_or_unicode_form_collide() -> None:
    assert plan("A.jpg", "a.png") == ["A.jpg", "a.png"]
    assert plan("\u00e9.jpg", "e\u0301.png") == ["\u00e9.jpg", "e\u0301.png"]
    first, second = plan("a.jpg", "A.JPG")
    assert first.casefold() != second.casefold()


def test_a_name_that_ends_like_a_format_does_not_meet_it() -> None:
    assert plan("a.jpg", "a.color.jpg") == ["a.jpg", "a.color.jpg"]
    assert plan("a.color.jpg") == ["a.color"], "alone it is fine"


def test_chains_of_suffixes() -> None:
    names = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "a.jpg.color.png", "a.half.exr"]
    everything = [name.casefold() for name in outputs(*names)]
    assert len(set(everything)) == len(everything)


parts = st.lists(st.sampled_from(["a", "A", "é", "e\u0301", "color", "grey", "half", "side", "jpg", "png"]), min_size=1)
names = st.builds(lambda stem, suffix: ".".join(stem) + suffix, parts, st.sampled_from([".jpg", ".png", ".JPG", ""]))


@given(st.lists(names, unique=True, max_size=8), st.randoms())
def test_outputs_never_meet_and_order_does_not_matter(relatives: list[str], random) -> None:
    everything = [name.casefold() for name in outputs(*relatives)]
    assert len(set(everything)) == len(everything)
    shuffled = random.sample(relatives, len(relatives))
    assert dict(zip(shuffled, plan(*shuffled), strict=True)) == dict(zip(relatives, plan(*relatives), strict=True))


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "é" * 125 + ".jpg", "🦊" * 62 + ".jpeg"])
def test_long_names_fit_and_stay_apart(tmp_path: Path, name: str) -> None:
    other = name[:120] + "y" + name[121:] if name[0] == "x" else name[:-6] + "y" + name[-5:]
    files = outputs("sub/" + name, "sub/" + other)
    assert len(set(files)) == len(files)
    for file in files:
        assert len(os.fsencode(Path(file).name)) <= 255
        (tmp_path / Path(file).name).write_bytes(b"")


def test_short_enough_names_are_untouched() -> None:
    room = 255 - max(len(row.suffix) for row in MAP_FORMATS.values())
    assert plan("x" * room + ".jpg") == ["x" * room]
    assert plan("x" * (room + 1) + ".jpg") != ["x" * (room + 1)]


def test_odd_names() -> None:
    odd = ["new\nline.jpg", " a .jpg", "🦊.jpg", "-.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    assert plan(*odd) == [name.removesuffix(".jpg") for name in odd]
    assert len(plan(os.fsdecode(b"\xff" * 250 + b".jpg"))[0]) < 255


def test_many_images_are_planned_quickly() -> None:
    assert len(set(plan(*(f"{number % 100}/{number}.jpg" for number in range(20_000))))) == 20_000


def test_two_images_in_one_place_are_refused() -> None:
    with pytest.raises(DatoolError, match=r"two images go to the same place: a\.jpg"):
        plan("b.jpg", "a.jpg", "a.jpg")


def test_formats_are_known_and_differ() -> None:
    assert check_formats(["png16", "color"]) == ["png16", "color"]
    with pytest.raises(DatoolError, match=r"'png16' and 'png16' write the same file \(\*\.png\)"):
        check_formats(["png16", "npy", "png16"])
    with pytest.raises(DatoolError, match="Did you mean 'tiff'"):
        check_formats(["tif"])
    with pytest.raises(DatoolError, match="no output format"):
        check_formats([])
    assert check_formats(list(MAP_FORMATS)) == list(MAP_FORMATS), "no two rows of the table share a file name"
