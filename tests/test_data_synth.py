"""Laws of rendered sets: a picture is a function of seed, number and size, and no kill or worker changes a byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from datool.cli import app
from datool.data.batches.datasets import SetSpec, open_set
from datool.errors import DatoolError
from datool.jobs.data.synth import SynthOptions, synth
from datool.render import render
from datool.render.photos import choose

SIZE = (24, 32)


def options(out: Path, num: int = 20, **more: object) -> SynthOptions:
    return replace(
        SynthOptions(out=out, num=num, height_px=SIZE[0], width_px=SIZE[1], seed=3, num_workers=1, rows_per_shard=6),
        **more,
    )


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("format", ["manifest", "shards"])
@pytest.mark.parametrize("depth", ["png16", "npz"])
def test_the_files_hold_what_was_rendered(format, depth, tmp_path):
    synth(options(tmp_path, image="png", depth=depth, format=format))
    samples = open_set(SetSpec(format, tmp_path))
    made = render(3, range(20), *SIZE)
    places = [(shard, number) for shard, count in enumerate(samples.counts) for number in range(count)]
    assert len(places) == 20
    for number, place in enumerate(places):
        sample = samples.read(*place)
        assert sample.id == f"{number:09d}" and not sample.pseudo
        np.testing.assert_array_equal(sample.image, made.image_b3hw[number].permute(1, 2, 0).numpy())
        np.testing.assert_allclose(sample.depth.values, made.depth_bhw[number].numpy(), rtol=0, atol=0.1)
        if depth == "npz":
            np.testing.assert_array_equal(sample.depth.values, made.depth_bhw[number].numpy())
        camera = sample.camera
        expected = made.camera_b4[number].tolist()
        assert [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px] == pytest.approx(expected)


@pytest.mark.parametrize("format", ["manifest", "shards"])
def test_kills_and_workers_change_no_byte(format, tmp_path, monkeypatch):
    monkeypatch.setattr("datool.jobs.data.synth.BATCH_CPU", 8)
    whole = options(tmp_path / "whole", 40, format=format)
    assert synth(whole).num_skipped == 0
    killed = replace(whole, out=tmp_path / "killed")
    for after in (1, 8, 9):

        def stop(progress, after=after):
            if progress.done >= after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            synth(killed, stop)
        assert not (killed.out / ("index.json" if format == "shards" else "manifest.jsonl")).exists()
    last = synth(replace(killed, num_workers=2))
    assert 0 < last.num_skipped < 40
    assert contents(killed.out) == contents(whole.out)
    assert synth(killed).images_per_s == 0 and contents(killed.out) == contents(whole.out)


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path):
    synth(options(tmp_path / "few", 4))
    synth(options(tmp_path / "many", 11))
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    pictures = [name for name in few if name.startswith("000000/")]
    assert len(pictures) == 12 and all(few[name] == many[name] for name in pictures)
    synth(options(tmp_path / "few", 11))
    assert contents(tmp_path / "few") == many


def test_another_set_is_not_mixed_in(tmp_path):
    synth(options(tmp_path, 2))
    with pytest.raises(DatoolError, match="seed was 3, now 4"):
        synth(options(tmp_path, 2, seed=4))
    with pytest.raises(DatoolError, match="synth did not write"):
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "manifest.jsonl").write_text("")
        synth(options(tmp_path / "own", 2))
    for wrong, message in (
        ({"format": "zip"}, "unknown format"),
        ({"depth": "npy"}, "does not say"),
        ({"image": "gif"}, "unknown image format"),
        ({"num": 0}, "at least 1"),
        ({"family": "space"}, "family"),
    ):
        with pytest.raises(DatoolError, match=message):
            synth(options(tmp_path / "new", **{"num": 2, **wrong}))


def test_the_command_renders(tmp_path):
    arguments = ["data", "synth", "--out", str(tmp_path), "--num", "3", "--size", "16x24", "--workers", "1", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and json.loads(done.stdout)["num"] == 3, done.output
    assert CliRunner().invoke(app, [*arguments[:-4], "--size", "16"]).exit_code == 2


def test_textures_change_pictures_only_and_a_set_keeps_to_its_own(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), pixels)
    synth(options(tmp_path / "bare", 12, image="png"))
    covered = options(tmp_path / "covered", 12, image="png", textures=photos)
    synth(covered)
    bare, made = contents(tmp_path / "bare"), contents(tmp_path / "covered")
    depths = [name for name in bare if ".depth." in name]
    images = [name for name in bare if name.endswith(".png") and ".depth." not in name]
    assert len(depths) == len(images) == 12
    assert all(bare[name] == made[name] for name in depths) and any(bare[name] != made[name] for name in images)
    (photos / "2.png").unlink()
    with pytest.raises(DatoolError, match="textures was"):
        synth(covered)
    (tmp_path / "none").mkdir()
    with pytest.raises(DatoolError, match="no image"):
        synth(options(tmp_path / "new", 2, textures=tmp_path / "none"))


def test_textures_are_drawn_from_the_whole_folder(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"")
    assert [path.stem for path in choose(tmp_path, 3)] == ["00", "01", "02"]
    drawn = [{path.stem for path in choose(tmp_path, 10, seed)} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and max(drawn[0]) > "10"
