"""The evaluation job: every image scored or named, in any number of processes, from model or saved maps."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.saved import SavedMap, SavedMaps
from datool.files import MAP_FORMATS, write_map
from datool.files.stored_map import MapMeaning
from datool.jobs.evaluate.evaluate import EvalOptions, evaluate

REAL = Path(__file__).parents[2] / "shared" / "real"
AFFINE = Ambiguity.SCALE_AND_SHIFT
DISPARITY = MapMeaning(quantity=Quantity.DISPARITY, ambiguity=AFFINE)
METRES = MapMeaning(quantity=Quantity.DEPTH, ambiguity=Ambiguity.NONE)
RELATIVE = {"meaning": DISPARITY, "workers": 1}
SHAPE = (24, 36)


def nano(folder: Path) -> str:
    import torch

    from datool.models.depth_anything import build_model
    from datool.models.weights import save

    torch.manual_seed(0)
    save(folder / "nano.safetensors", build_model("nano"), "nano")
    return str(folder / "nano.safetensors")


def relative(values):
    return DepthMap(np.asarray(values, np.float32), Quantity.DISPARITY, AFFINE)


def own_data(folder: Path, num: int = 6) -> dict[str, np.ndarray]:
    """Write a manifest of photos with truth; return the truths by id."""
    rng = np.random.default_rng(0)
    truths, lines = {}, []
    for number in range(num):
        name = f"sub/{number}"
        truths[name] = rng.uniform(1, 30, SHAPE).astype(np.float32)
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 255, (*SHAPE, 3), np.uint8))
        np.save(folder / f"{name}.truth.npy", truths[name])
        lines.append(json.dumps({"image": f"{name}.png", "depth": f"{name}.truth.npy"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return truths


def predictions(folder: Path, truths: dict[str, np.ndarray]) -> Path:
    rng = np.random.default_rng(1)
    for name, truth in truths.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (5 / truth + 2 + rng.normal(0, 0.05, SHAPE)).astype(np.float32))
    return folder


@pytest.fixture
def data(tmp_path):
    truths = own_data(tmp_path / "data")
    return tmp_path / "data" / "manifest.jsonl", predictions(tmp_path / "maps", truths), truths


def test_what_cannot_be_scored_is_counted_and_named_and_not_averaged(data):
    manifest, maps, _ = data
    whole = evaluate(EvalOptions(manifest=manifest, predictions=maps, **RELATIVE)).results[0]
    (maps / "sub/0.npy").unlink()
    np.save(maps / "sub/1.npy", np.ones((10, 10), np.float32))
    np.save(maps / "sub/2.npy", np.full(SHAPE, np.nan, np.float32))
    np.save(maps / "sub/3.npy", np.ones(SHAPE, np.float32))
    (maps / "sub/4.npy").write_bytes(b"no map")
    found = evaluate(EvalOptions(manifest=manifest, predictions=maps, **RELATIVE)).results[0]
    assert found.failures == {
        "prediction-missing": 1,
        "prediction-size": 1,
        "prediction-nan": 1,
        "prediction-unreadable": 1,
    }
    assert [id for id, _ in found.failed] == [f"sub/{number}.png" for number in (0, 1, 2, 4)]
    assert found.flags == {"constant": 1, "scale-zero": 1}  # scored: leaving it out would flatter
    assert (found.num_images, found.num_scored) == (6, 2)
    assert found.rows[5] == whole.rows[5]
    mean = np.mean([found.rows[number].values["abs_rel"] for number in (3, 5)])
    assert found.values["abs_rel"] == pytest.approx(mean, rel=1e-12)


def test_metric_maps_of_the_wrong_sign_and_empty_truth_are_named(data):
    manifest, maps, truths = data
    for name, truth in truths.items():
        np.save(maps / f"{name}.npy", truth)
    np.save(maps / "sub/0.npy", -truths["sub/0"])
    np.save(manifest.parent / "sub/1.truth.npy", np.full(SHAPE, np.nan, np.float32))
    found = evaluate(
        EvalOptions(
            manifest=manifest,
            predictions=maps,
            protocol="v2-metric",
            meaning=METRES,
            workers=1,
        )
    ).results[0]
    assert found.failures == {"prediction-sign": 1, "truth-empty": 1}
    assert found.values["abs_rel"] == 0 and found.values["delta1"] == 1


def test_a_map_of_the_other_sign_is_scored_and_told_and_one_without_truth_is_named(data):
    manifest, maps, _ = data
    np.save(maps / "sub/0.npy", -np.load(maps / "sub/0.npy"))
    (manifest.parent / "sub/1.truth.npy").unlink()
    np.save(manifest.parent / "sub/2.truth.npy", np.zeros(SHAPE, np.float32))  # no sentinel was named
    np.save(manifest.parent / "sub/3.truth.npy", np.full(SHAPE, 500, np.float32))  # all beyond the range
    rows = manifest.read_text().splitlines()
    rows[4] = json.dumps({"image": "sub/4.png"})
    manifest.write_text("\n".join(rows) + "\n")
    found = evaluate(EvalOptions(manifest=manifest, predictions=maps, **RELATIVE)).results[0]
    assert found.flags == {"scale-negative": 1}
    assert found.failures == {"sample-unreadable": 2, "truth-empty": 1, "truth-missing": 1}
    assert found.rows[0].scale < 0 and "0 pixels of truth" in found.rows[3].reason


@pytest.mark.parametrize("html", [False, True])
def test_a_run_without_one_score_is_a_table_of_reasons(data, tmp_path, html):
    manifest, _, _ = data
    (tmp_path / "empty").mkdir()
    options = {"predictions": tmp_path / "empty", "html": tmp_path / "r.html" if html else None}
    found = evaluate(EvalOptions(manifest=manifest, **options, **RELATIVE))
    assert found.results[0].failures == {"prediction-missing": 6} and found.results[0].values == {}
    assert json.loads(found.to_json())["results"][0]["num_scored"] == 0


def test_a_wrong_root_is_told_with_what_is_looked_for(data, tmp_path):
    _, maps, _ = data
    for bench, words in (
        ("da2k", "DA-2K/annotations.json"),
        ("kitti", "proj_depth"),
        ("nyu", "nyu"),
        ("ibims", "ibims"),
    ):
        with pytest.raises(DatoolError, match=words):
            evaluate(EvalOptions(bench=[bench], roots={bench: maps}, predictions=maps, **RELATIVE))
        with pytest.raises(DatoolError, match="no"):
            evaluate(EvalOptions(bench=[bench], roots={bench: tmp_path / "nowhere"}, predictions=maps, **RELATIVE))


def test_processes_do_not_change_the_scores(data):
    manifest, maps, _ = data
    one = evaluate(EvalOptions(manifest=manifest, predictions=maps, **RELATIVE)).results[0]
    two = evaluate(EvalOptions(manifest=manifest, predictions=maps, **(RELATIVE | {"workers": 2}))).results[0]
    assert one.rows == two.rows and one.values == two.values


class Killer(SavedMap):
    """A map whose reading kills the process, as memory that ends does."""

    def read(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_map_that_kills_its_worker_is_a_failed_row_and_the_others_are_scored(data, monkeypatch):
    manifest, maps, _ = data
    options = EvalOptions(manifest=manifest, predictions=maps, **(RELATIVE | {"workers": 2}))
    whole = evaluate(options).results[0]
    find = SavedMaps.find
    monkeypatch.setattr(
        SavedMaps, "find", lambda self, id, image: (Killer if "/2" in id else SavedMap)(**vars(find(self, id, image)))
    )
    found = evaluate(options).results[0]
    assert found.failures == {"worker-killed": 1}
    ((id, reason),) = found.failed
    assert id == "sub/2.png" and "sub/2.png" in reason and "killed" in reason
    assert [row for row in found.rows if row.id != id] == [row for row in whole.rows if row.id != id]


def test_a_worker_that_is_killed_from_outside_costs_no_score(data):
    manifest, maps, _ = data
    options = EvalOptions(manifest=manifest, predictions=maps, **RELATIVE)
    whole = evaluate(options).results[0]
    victims = []

    def kill(progress):
        if progress.done == 1 and not victims:
            victims.extend(child for child in multiprocessing.active_children())
            os.kill(victims[0].pid, signal.SIGKILL)

    assert evaluate(replace(options, workers=2), kill).results[0].rows == whole.rows
    assert victims


def test_a_killed_run_goes_on_and_gives_the_same_table(data, tmp_path):
    manifest, maps, _ = data
    options = EvalOptions(manifest=manifest, predictions=maps, csv=tmp_path / "rows.csv", **RELATIVE)
    whole = evaluate(options)
    written = options.csv.read_bytes()
    lines = written.splitlines(keepends=True)
    options.csv.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # two rows, and one cut off
    again = evaluate(options)
    assert options.csv.read_bytes() == written
    assert again.results[0].num_skipped == 2 and again.results[0].values == whole.results[0].values

    (maps / "sub/0.npy").unlink()
    assert evaluate(options).results[0].num_scored == 6  # nothing is left to do
    with pytest.raises(DatoolError, match="holds scores of protocol"):
        evaluate(EvalOptions(manifest=manifest, predictions=maps, csv=options.csv, overrides={"far": "10"}, **RELATIVE))


def test_failed_images_are_tried_again(data, tmp_path):
    manifest, maps, _ = data
    saved = (maps / "sub/0.npy").read_bytes()
    (maps / "sub/0.npy").unlink()
    options = EvalOptions(manifest=manifest, predictions=maps, csv=tmp_path / "rows.csv", **RELATIVE)
    assert evaluate(options).results[0].failures == {"prediction-missing": 1}
    (maps / "sub/0.npy").write_bytes(saved)
    found = evaluate(options).results[0]
    assert found.failures == {} and found.num_scored == 6


def test_the_summary_is_json_and_holds_its_protocol(data):
    manifest, maps, _ = data
    summary = evaluate(EvalOptions(manifest=manifest, predictions=maps, overrides={"far": "inf"}, **RELATIVE))
    found = json.loads(summary.to_json())["results"][0]
    assert found["protocol"] == "lsq-disparity+far=inf" and found["fields"]["far"] == "inf"
    assert found["protocol_sha256"] == summary.results[0].protocol_sha256 and found["num_scored"] == 6


def test_what_is_asked_for_is_checked(data):
    manifest, maps, _ = data
    for options, words in (
        ({"predictions": maps}, "--bench or --manifest"),
        ({"manifest": manifest, "model": "tiny", "predictions": maps}, "--model or --predictions"),
        ({"manifest": manifest, "predictions": maps / "no"}, "no folder of predictions"),
        ({"manifest": manifest, "predictions": maps, "protocol": "midass"}, "Did you mean 'midas'"),
        ({"bench": ["da2k"], "predictions": maps}, "datool data get da2k"),
        ({"bench": ["all"], "predictions": maps}, "no benchmark"),
        ({"manifest": manifest, "predictions": maps, "overrides": {"metrics": "whdr"}}, "dense truth of manifest"),
        ({"bench": ["kity"], "predictions": maps}, "Did you mean 'kitti'"),
    ):
        with pytest.raises(DatoolError, match=words):
            evaluate(EvalOptions(**options))


# Saved maps


@pytest.mark.parametrize("format", [name for name, row in MAP_FORMATS.items() if not row.picture])
def test_maps_of_every_format_are_found_and_read(tmp_path, format):
    values = np.random.default_rng(0).random((5, 7))
    path = tmp_path / f"a/b{MAP_FORMATS[format].suffix}"
    write_map(path, relative(values), format)
    saved = SavedMaps(tmp_path, DISPARITY).find("a/b.jpg", Path("a/b.jpg"))
    assert saved is not None
    np.testing.assert_allclose(saved.read().values, values, atol=1e-3)


def test_maps_of_others(tmp_path):
    depth = np.array([[0, 1500, 2000], [500, 65535, 1]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), depth)
    found = SavedMaps(tmp_path, replace(METRES, divisor=1000)).find("x/a.png", Path("a.png"))
    np.testing.assert_allclose(found.read().values, np.where(depth, depth / 1000, np.nan), rtol=1e-6)
    np.save(tmp_path / "b.npy", np.ones((1, 4, 5), np.float16))
    maps = SavedMaps(tmp_path, METRES)
    assert maps.find("b", Path("b")).read().shape == (4, 5)
    assert maps.find("c", Path("c")) is None
    with pytest.raises(DatoolError, match="does not say its quantity"):
        SavedMaps(tmp_path).find("b", Path("b")).read()


def test_one_map_is_never_scored_for_two_images(tmp_path):
    for name in ("one/0", "two/0", "two/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((*SHAPE, 3), 90, np.uint8))
        np.save(tmp_path / f"{name}.npy", np.full(SHAPE, 2, np.float32))
    names = ("one/0", "two/0", "two/1")
    rows = [{"image": f"{name}.png", "depth": f"{name}.npy"} for name in names]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("0", "1"):
        np.save(maps / f"{name}.npy", np.full(SHAPE, 2, np.float32))
    options = EvalOptions(
        manifest=tmp_path, predictions=maps, meaning=METRES, protocol="v2-metric", workers=1, csv=tmp_path / "rows.csv"
    )
    found = evaluate(options).results[0]
    assert found.num_scored == 1 and [id for id, _ in found.failed] == ["one/0.png", "two/0.png"]
    text = options.csv.read_text()
    assert "one/0.png among them" in text and "two/0.png among them" in text
    # By their ids, or in a pattern with {id}, they are told apart.
    for name in ("one", "two"):
        (maps / name).mkdir()
        np.save(maps / name / "0.npy", np.full(SHAPE, 2, np.float32))
    assert evaluate(replace(options, csv=None)).results[0].num_scored == 3
    pattern = str(maps / "{id}.npy")
    assert [id for id, _ in evaluate(replace(options, csv=None, predictions=pattern)).results[0].failed] == [
        "two/1.png"
    ]


# DA-2K


def da2k(root: Path) -> dict[str, list[tuple[tuple[int, int], tuple[int, int]]]]:
    rng = np.random.default_rng(0)
    annotations, pairs = {}, {}
    for name, count in (("indoor/a", 3), ("indoor/b", 1), ("object/c", 4)):
        path = root / f"images/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*SHAPE, 3), np.uint8))
        points = [rng.integers(0, SHAPE, (2, 2)).tolist() for _ in range(count)]
        pairs[name] = points
        annotations[f"images/{name}.jpg"] = [
            {"point1": one, "point2": two, "closer_point": "point1"} for one, two in points
        ]
    (root / "annotations.json").write_text(json.dumps(annotations))
    return pairs


def test_da2k_is_pooled_over_pairs_and_told_by_scene(tmp_path):
    pairs = da2k(tmp_path / "set")
    values = {name: np.random.default_rng(len(name)).random(SHAPE).astype(np.float32) for name in pairs}
    for name, array in values.items():
        (tmp_path / f"maps/images/{name}").parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"maps/images/{name}.npy", array)
    options = EvalOptions(bench=["da2k"], roots={"da2k": tmp_path / "set"}, predictions=tmp_path / "maps", **RELATIVE)
    found = evaluate(options).results[0]
    right = {
        name: sum(float(values[name][a[0], a[1]] > values[name][b[0], b[1]]) for a, b in pairs[name]) for name in pairs
    }
    assert found.values["accuracy"] == pytest.approx(sum(right.values()) / 8)
    assert found.groups["indoor"]["accuracy"] == pytest.approx((right["indoor/a"] + right["indoor/b"]) / 4)
    assert found.groups["object"]["weight"] == 4 and found.published

    (tmp_path / "set/images/indoor/b.jpg").unlink()
    np.save(tmp_path / "maps/images/object/c.npy", np.ones(SHAPE, np.float32))
    found = evaluate(options).results[0]
    assert found.failures == {"image-missing": 1} and found.failed[0][0] == "images/indoor/b.jpg"
    assert found.groups["object"]["accuracy"] == 0 and found.flags == {"constant": 1, "tie": 1}


# Models


def test_a_model_scores_as_its_saved_maps_do(data, tmp_path):
    from datool.estimators.predictor import Predictor
    from datool.models.weights import load

    manifest, _, truths = data
    source = nano(tmp_path)
    options = {"size_px": 28, "device": "cpu", "precision": "fp32"}
    scored = evaluate(EvalOptions(manifest=manifest, model=source, **options)).results[0]
    assert scored.num_scored == 6
    predictor = Predictor(load(source), "cpu", "fp32", 28)
    for name in truths:
        (tmp_path / "own/sub").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"own/{name}.npy", predictor.predict(manifest.parent / f"{name}.png").values)
    saved = evaluate(EvalOptions(manifest=manifest, predictions=tmp_path / "own", **RELATIVE)).results[0]
    expected = {row.id: row.values for row in scored.rows}
    assert {row.id for row in saved.rows} == set(expected)
    for row in saved.rows:  # the number of threads decides the last bits of a forward
        assert row.values == pytest.approx(expected[row.id], rel=1e-5)


def test_an_unreadable_photo_is_named_beside_the_scores_of_a_model(data, tmp_path):
    manifest, _, _ = data
    (manifest.parent / "sub/0.png").unlink()
    (manifest.parent / "sub/1.png").write_bytes(b"no photo")
    found = evaluate(
        EvalOptions(manifest=manifest, model=nano(tmp_path), size_px=28, device="cpu", overrides={"flip": "true"})
    ).results[0]
    assert found.failures == {"image-missing": 1, "sample-unreadable": 1} and found.num_scored == 4


def test_a_model_sees_the_photo_as_the_benchmark_crops_it(tmp_path):
    from datool.estimators.predictor import Predictor
    from datool.models.weights import load

    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 255, (9, 30, 3), np.uint8), (1242, 375))
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    np.save(tmp_path / "a.truth.npy", rng.uniform(1, 30, (375, 1242)).astype(np.float32))
    (tmp_path / "manifest.jsonl").write_text('{"image": "a.png", "depth": "a.truth.npy"}\n')
    source, manifest = nano(tmp_path), tmp_path / "manifest.jsonl"
    how = {"manifest": manifest, "protocol": "marigold", "overrides": {"crop": "kb-eigen"}}
    scored = evaluate(EvalOptions(model=source, size_px=28, device="cpu", precision="fp32", **how)).results[0]
    cropped = np.ascontiguousarray(photo[375 - 352 :, 13 : 13 + 1216, ::-1])
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", Predictor(load(source), "cpu", "fp32", 28).predict(cropped).values)
    saved = evaluate(EvalOptions(predictions=tmp_path / "maps", **how, **RELATIVE)).results[0]
    assert saved.values == pytest.approx(scored.values, rel=1e-5) and scored.rows[0].weight == saved.rows[0].weight > 0


@pytest.mark.skipif(not REAL.exists(), reason="the real images are not part of the project")
def test_published_disparities_score_as_known_through_the_job():
    found = evaluate(
        EvalOptions(manifest=REAL / "manifest.jsonl", predictions=f"{REAL}/{{id}}.da2-disparity.npy", **RELATIVE)
    ).results[0]
    values = {row.id: row.values for row in found.rows if row.status == "scored"}
    assert found.protocol == "lsq-disparity" and len(values) == 3
    for name, abs_rel, delta1 in (
        ("kitti-71", 0.0805, 0.958),
        ("kitti-75", 0.0923, 0.892),
        ("nyu-room", 0.0241, 0.9992),
    ):
        assert values[name]["abs_rel"] == pytest.approx(abs_rel, abs=5e-5)
        assert values[name]["delta1"] == pytest.approx(delta1, abs=5e-4)


# The command


def command(*arguments):
    from typer.testing import CliRunner

    from datool.cli import app

    return CliRunner().invoke(app, ["eval", *map(str, arguments)], env={"DATOOL_DATA": "", "COLUMNS": "200"})


def test_the_command_prints_numbers_protocol_and_hash_and_fails_where_an_image_did(data):
    manifest, maps, _ = data
    asked = ["--manifest", manifest, "--predictions", maps, "--workers", 1]
    asked += ["--quantity", "disparity", "--ambiguity", "scale-and-shift", "--set", "far=40", "--quiet"]
    table = command(*asked[:-1])
    found = json.loads(command(*asked, "--json").stdout)["results"][0]
    assert table.exit_code == 0
    for text in (found["protocol_sha256"], "lsq-disparity+far=40", "far 40", f"{found['values']['abs_rel']:.4f}"):
        assert text in table.stdout, text
    (maps / "sub/3.npy").unlink()
    failed = command(*asked)
    assert failed.exit_code == 1 and "sub/3.png: no saved map" in failed.stderr and not failed.stdout


def test_the_command_tells_of_pairs_scenes_and_what_was_published(tmp_path):
    for name in da2k(tmp_path / "set"):
        (tmp_path / f"maps/images/{name}").parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"maps/images/{name}.npy", np.ones(SHAPE, np.float32))
    maps = ["--predictions", tmp_path / "maps", "--quantity", "disparity", "--ambiguity", "scale-and-shift"]
    found = command("--bench", "da2k", "--root", f"da2k={tmp_path / 'set'}", *maps, "--workers", 1)
    assert found.exit_code == 0 and "3 constant" in found.stdout
    for text in ("accuracy", "indoor", "object", "v2-small", "0.9530", "reproducible"):
        assert text in found.stdout, text


def test_the_command_refuses_what_it_cannot_do(data, monkeypatch):
    manifest, maps, _ = data
    monkeypatch.chdir(maps.parent)
    for arguments, code, words in (
        (["--bench", "da2k", "--predictions", maps, "--offline"], 1, "DA-2K/annotations.json"),
        (["--manifest", manifest, "--predictions", maps, "--set", "far"], 2, "expected KEY=VALUE"),
        (["--manifest", manifest, "--predictions", maps, "--quantity", "dept"], 1, "Did you mean 'depth'"),
    ):
        found = command(*arguments)
        assert found.exit_code == code and words in found.stderr, found.stderr
