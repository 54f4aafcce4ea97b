"""The report: one file, everything in it, nothing fetched, no more pictures than asked for."""

import json
import re

import cv2
import numpy as np
import pytest
from test_evaluate import RELATIVE, SHAPE, da2k, nano, own_data, predictions

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.evaluation import gallery
from datool.evaluation.protocols import PROTOCOLS
from datool.evaluation.results import half_octaves
from datool.jobs.evaluate.evaluate import NUM_PICTURES, EvalOptions, evaluate


@pytest.fixture
def data(tmp_path):
    truths = own_data(tmp_path / "data", 20)
    return tmp_path / "data/manifest.jsonl", predictions(tmp_path / "maps", truths)


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_report_holds_everything_and_fetches_nothing(data, tmp_path):
    manifest, maps = data
    (maps / "sub/7.npy").unlink()
    found = evaluate(
        EvalOptions(manifest=manifest, predictions=maps, html=tmp_path / "out/report.html", **RELATIVE)
    ).results[0]
    whole = (tmp_path / "out/report.html").read_text()
    page = without_scripts(whole)
    for text in (
        found.protocol_sha256,
        f"{found.values['abs_rel']:.4f}",
        "Error against depth",
        "Images by score",
        "Worst images",
        "Best images",
        "sub/7.png",
        "no saved map",
        "prediction-missing",
    ):
        assert text in page, text
    assert "plotly" in whole and whole.count("Plotly.newPlot") >= 11  # a histogram a metric, and error against depth
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert len(re.findall("data:image/jpeg", page)) == 4 * 2 * NUM_PICTURES
    assert found.values["abs_rel"] == pytest.approx(
        np.mean([row.values["abs_rel"] for row in found.rows if row.values])
    )


def test_worst_comes_first_and_no_image_is_in_both(tmp_path):
    truths = own_data(tmp_path / "data", 3)
    maps = predictions(tmp_path / "maps", truths)
    np.save(maps / "sub/1.npy", np.random.default_rng(0).random(SHAPE).astype(np.float32))
    evaluate(
        EvalOptions(manifest=tmp_path / "data/manifest.jsonl", predictions=maps, html=tmp_path / "r.html", **RELATIVE)
    )
    shown = re.findall(r"<header><span>(.*?)</span>", without_scripts((tmp_path / "r.html").read_text()))
    assert shown[0] == "sub/1.png" and sorted(shown) == ["sub/0.png", "sub/1.png", "sub/2.png"]


def test_names_of_files_cannot_break_the_page(tmp_path):
    name = "<b>&amp;'\".png"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*SHAPE, 3), np.uint8))
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(1, 9, SHAPE).astype(np.float32))
    row = {"id": name, "image": "a.png", "depth": "a.npy"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    options = {"predictions": f"{tmp_path}/a.{{stem}}.npy", "html": tmp_path / "r.html"}
    found = evaluate(EvalOptions(manifest=tmp_path / "m.jsonl", **options, **RELATIVE)).results[0]
    page = without_scripts((tmp_path / "r.html").read_text())
    assert found.failures == {"prediction-missing": 1} and "<b>&amp;'" not in page and "&lt;b&gt;&amp;amp;" in page


def test_pairs_of_points_are_drawn_and_published_numbers_stand_beside_ours(tmp_path):
    for name in da2k(tmp_path / "set"):
        (tmp_path / f"maps/images/{name}").parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"maps/images/{name}.npy", np.random.default_rng(0).random(SHAPE).astype(np.float32))
    options = {"bench": ["da2k"], "roots": {"da2k": tmp_path / "set"}, "predictions": tmp_path / "maps"}
    evaluate(EvalOptions(html=tmp_path / "r.html", **options, **RELATIVE))
    page = without_scripts((tmp_path / "r.html").read_text())
    for text in ("Ours and published", "v2-small", "0.9530", "reproducible", "full dot: nearer", "of each group"):
        assert text in page, text


def test_a_model_has_its_pictures_too_and_a_cropped_benchmark_its_crop(tmp_path):
    own_data(tmp_path / "data", 2)
    how = {"size_px": 28, "device": "cpu", "overrides": {"flip": "true", "crop": "garg"}}
    evaluate(EvalOptions(manifest=tmp_path / "data/manifest.jsonl", model=nano(tmp_path), html=tmp_path / "r", **how))
    assert (tmp_path / "r").read_text().count("data:image/jpeg") == 8


# What a report is made of


def test_half_octaves_hold_every_pixel_once():
    rng = np.random.default_rng(0)
    truth, error = rng.uniform(0.01, 200, 5000), rng.random(5000)
    found = half_octaves(truth, error)
    assert sum(count for count, _ in found.values()) == 5000
    assert sum(total for _, total in found.values()) == pytest.approx(error.sum())
    count, total = found[4]  # from 4 to 4 sqrt 2
    inside = (truth >= 4) & (truth < 4 * np.sqrt(2))
    assert count == inside.sum() and total == pytest.approx(error[inside].sum())


def test_a_sparse_map_stays_visible_when_it_shrinks():
    values = np.full((100, 4 * gallery.WIDTH_PX), np.nan)
    values[::4, ::4] = 3.0
    small = gallery._shrunk(values, (25, gallery.WIDTH_PX))
    np.testing.assert_allclose(small, 3.0)


def test_a_perfect_map_has_a_black_error_and_looks_as_truth_does(tmp_path):
    truth = np.random.default_rng(0).uniform(1, 30, SHAPE).astype(np.float32)
    pred = DepthMap(2 / truth + 1, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    picture = gallery.dense_picture(
        "a",
        0.0,
        np.zeros((*SHAPE, 3), np.uint8),
        pred,
        DepthMap(truth, Quantity.DEPTH, Ambiguity.NONE),
        PROTOCOLS["lsq-disparity"],
    )
    pixels = {name: decoded(uri) for name, uri in picture.panels.items()}
    error = next(image for name, image in pixels.items() if name.startswith("relative error"))
    assert error.max() < 12
    # colours of a steep ramp differ by the JPEG's blocks alone
    assert np.abs(pixels["prediction, aligned"].astype(int) - pixels["truth"]).mean() < 3


def decoded(uri: str) -> np.ndarray:
    import base64

    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
