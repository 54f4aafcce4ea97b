"""Laws of batches: a sample is a function of (seed, group, epoch, sample), whoever reads it from whatever step on."""

import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch

from datool.data.batches.augment import Augmentation
from datool.data.batches.crops import random_crop
from datool.data.batches.datasets import RowSet, SetSpec, SkySet, open_set
from datool.data.batches.stored import GroupSpec, RenderedBatches, SampleBatches
from datool.data.batches.transforms import minmax_target
from datool.data.sample import Batch, Sample
from datool.data.shards import ShardWriter, encode_sample
from datool.data.sources.base import Row
from datool.data.sources.table import SOURCES
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import write_map

SIZE = (28, 42)
SHAPES = [(40, 50), (50, 40), (9, 7), (28, 42), (120, 30), (33, 90), (61, 61), (30, 200), (5, 5), (44, 44)]
COLOURS = Augmentation(grey=0.2, occlusion=0.3)


def stored(number: int) -> Sample:
    """A noisy picture, and a depth with sky at the top and a hole."""
    generator = np.random.default_rng(number)
    height, width = SHAPES[number]
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    depth = generator.uniform(1, 20, (height, width)).astype(np.float32)
    depth[: height // 4], depth[height // 2, : width // 2] = np.inf, np.nan
    return Sample(f"{number}.png", image, DepthMap(depth, Quantity.DEPTH, Ambiguity.NONE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The samples as a manifest, and as three shards."""
    root = tmp_path_factory.mktemp("sets")
    samples = [stored(number) for number in range(len(SHAPES))]
    with open(root / "manifest.jsonl", "w") as manifest:
        for sample in samples:
            cv2.imwrite(str(root / sample.id), sample.image[:, :, ::-1])
            np.save(root / f"{sample.id}.npy", sample.depth.values)
            manifest.write(json.dumps({"image": sample.id, "depth": f"{sample.id}.npy"}) + "\n")
    with ShardWriter(root / "shards", {}, 4) as writer:
        for number in range(3):
            rows = samples[number * 4 : number * 4 + 4]
            writer.write(number, "", [encode_sample(sample, depth="npz") for sample in rows])
        writer.finish(3)
    return root


@pytest.fixture
def specs(folder):
    return {"manifest": SetSpec("manifest", folder), "shards": SetSpec("shards", folder / "shards")}


def groups(spec, *others):
    """Labelled ones as teachers see them, and pseudo labels as V1's student does."""
    return (
        GroupSpec((spec,), 2),
        GroupSpec((spec, *others), 4, cutmix=0.5, pseudo=True),
    )


def take(stream, steps, start=0):
    """Return the batches of some steps, and stop its workers."""
    batches = stream.batches(start)
    found = list(islice(batches, steps * getattr(stream, "micro", 1)))
    batches.close()
    return found


def same(one: Batch, two: Batch) -> bool:
    tensors = ("image", "clean", "target", "valid", "region", "pseudo")
    return one.ids == two.ids and all(torch.equal(getattr(one, name), getattr(two, name)) for name in tensors)


def joined(parts: list[Batch], shares: list[int]) -> Batch:
    """Put the parts of a step together, group by group."""
    first, second = ([part.part(rows) for part in parts] for rows in _rows(len(parts[0]), shares))
    tensors = {
        name: torch.cat([getattr(part, name) for part in (*first, *second)])
        for name in ("image", "clean", "target", "valid", "region", "pseudo")
    }
    return Batch(**tensors, ids=tuple(id for part in (*first, *second) for id in part.ids))


def _rows(count, shares):
    return slice(0, shares[0] * count // sum(shares)), slice(shares[0] * count // sum(shares), count)


# One sequence, whoever reads it


@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_workers_make_the_batches_that_none_make(specs, kind):
    many = [SampleBatches(groups(specs[kind]), 7, SIZE, num_workers=workers) for workers in (0, 2)]
    for one, two in zip(*(take(stream, 4) for stream in many), strict=True):
        assert same(one, two)


@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_ranks_and_micro_batches_together_are_the_step(specs, kind):
    whole = take(SampleBatches(groups(specs[kind]), 7, SIZE), 5)
    ranks = [take(SampleBatches(groups(specs[kind]), 7, SIZE, rank=rank, world=2), 5) for rank in range(2)]
    micro = take(SampleBatches(groups(specs[kind]), 7, SIZE, micro=2), 5)
    assert len(micro) == 10
    for step, batch in enumerate(whole):
        assert same(batch, joined([part[step] for part in ranks], [2, 4]))
        assert same(batch, joined(micro[2 * step : 2 * step + 2], [2, 4]))


def test_from_any_step_on_the_batches_are_the_same(specs):
    stream = SampleBatches(groups(specs["shards"]), 7, SIZE)
    whole = take(stream, 12)
    for start, workers in ((0, 0), (1, 0), (5, 2)):
        again = SampleBatches(groups(specs["shards"]), 7, SIZE, num_workers=workers)
        assert all(same(one, two) for one, two in zip(whole[start:], take(again, 12 - start, start), strict=True))


def test_seed_epoch_and_group_decide(specs):
    spec = replace(groups(specs["manifest"])[0], batch_size=10)
    first, second = take(SampleBatches([spec, spec], 7, SIZE), 2)
    other, _ = take(SampleBatches([spec, spec], 8, SIZE), 2)
    passes = [first.part(slice(0, 10)), first.part(slice(10, 20)), second.part(slice(0, 10)), other.part(slice(0, 10))]
    assert all(sorted(each.ids) == sorted(f"{number}.png" for number in range(10)) for each in passes)
    assert len({each.ids for each in passes}) == 4
    crops = [torch.stack([each.image[each.ids.index(f"{number}.png")] for number in range(10)]) for each in passes]
    assert all(not torch.equal(crops[0], crop) for crop in crops[1:])


def test_closing_stops_the_workers(specs):
    batches = SampleBatches(groups(specs["manifest"]), 7, SIZE, num_workers=2).batches(0)
    next(batches)
    workers = set(multiprocessing.active_children())
    assert len(workers) == 2
    batches.close()
    assert not workers & set(multiprocessing.active_children())


def test_global_state_neither_matters_nor_changes(specs):
    torch.manual_seed(0)
    np.random.seed(0)
    first = take(SampleBatches(groups(specs["manifest"]), 7, SIZE), 1)[0]
    drawn = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(drawn[0], torch.rand(3)) and np.array_equal(drawn[1], np.random.rand(3))
    assert same(first, take(SampleBatches(groups(specs["manifest"]), 7, SIZE), 1)[0])


# What a batch holds


def test_without_mixing_and_colour_a_sample_is_its_crop(specs):
    stream = SampleBatches([GroupSpec((specs["manifest"],), 10, flip=0.0)], 7, (28, 28))
    (batch,) = take(stream, 1)
    assert batch.image is batch.clean and batch.region.all() and not batch.pseudo.any() and len(batch) == 10
    found = dict(zip(batch.ids, range(10), strict=True))["3.png"]
    sample = stored(3)  # 28 x 42, so that only the columns of a 28 x 28 crop are drawn
    assert batch.image[found].shape == (3, 28, 28)
    crops = [random_crop((28, 42), (28, 28), 0.0, np.array([0, left / 15, 0])) for left in range(15)]
    (crop,) = [crop for crop in crops if np.array_equal(crop.image(sample.image), _bytes(batch.image[found]))]
    depth = sample.depth
    expected = minmax_target(DepthMap(crop.nearest(depth.values), depth.quantity, depth.ambiguity), np.inf)
    np.testing.assert_array_equal(batch.target[found].numpy(), np.nan_to_num(expected))
    np.testing.assert_array_equal(batch.valid[found].numpy(), ~np.isnan(expected))
    assert batch.target.dtype == torch.float32 and batch.image.dtype == torch.float32


def _bytes(image):
    return (image * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()


def test_a_flip_mirrors_picture_and_target(specs):
    straight, mirrored = (
        take(SampleBatches([GroupSpec((specs["manifest"],), 10, flip=flip)], 7, SIZE), 1)[0] for flip in (0.0, 1.0)
    )
    assert torch.equal(straight.image.flip(3), mirrored.image)
    assert torch.equal(straight.target.flip(2), mirrored.target)
    assert torch.equal(straight.valid.flip(2), mirrored.valid)


def test_cutmix_sets_in_what_its_region_says(specs):
    spec = GroupSpec((specs["shards"],), 10)
    plain, mixed = (take(SampleBatches([replace(spec, cutmix=mix)], 7, SIZE), 6) for mix in (0.0, 0.5))
    shares, untouched = [], 0
    for one, two in zip(plain, mixed, strict=True):
        assert one.ids == two.ids
        for row in range(10):
            own, region = one.part(slice(row, row + 1)), two.region[row]
            assert torch.equal(two.image[row][:, region], own.image[0][:, region])
            assert torch.equal(two.target[row][region], own.target[0][region])
            assert torch.equal(two.valid[row][region], own.valid[0][region])
            untouched += bool(region.all())
            box = ~region
            if box.any():
                shares.append(float(box.float().mean()))
                assert box.sum() == box.any(1).sum() * box.any(0).sum(), "a rectangle"
                assert box.sum() < 12 or not torch.equal(two.image[row][:, box], own.image[0][:, box])
    assert 15 <= untouched <= 45 and min(shares) < 0.1 and max(shares) > 0.5


def test_maps_are_scaled_before_they_are_mixed(tmp_path):
    lines = []
    for number, near in enumerate((1.0, 10.0)):
        values = np.tile(np.array([near, 2 * near], np.float32), (30, 15))  # columns of two depths
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((30, 30, 3), np.uint8))
        np.save(tmp_path / f"{number}.npy", values)
        lines.append(json.dumps({"image": f"{number}.png", "depth": f"{number}.npy"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    spec = GroupSpec((SetSpec("manifest", tmp_path),), 2, cutmix=1.0, cutmix_area=(0.3, 0.4))
    for batch in take(SampleBatches([spec], 0, (30, 30)), 3):
        assert (~batch.region).flatten(1).any(1).all()
        assert sorted(batch.target.unique().tolist()) == [0.0, 1.0]


def test_a_partner_is_of_the_same_few_shards(tmp_path):
    """The red of a picture tells its shard: with 8 shards shuffled together, a partner never comes from the others."""
    with ShardWriter(tmp_path, {}, 3) as writer:
        for shard in range(24):
            image = np.full((8, 8, 3), 10 * shard, np.uint8)
            writer.write(shard, "", [encode_sample(Sample(f"{shard}-{each}", image)) for each in range(3)])
        writer.finish(24)
    spec = GroupSpec((SetSpec("shards", tmp_path),), 24, cutmix=1.0, cutmix_area=(0.4, 0.5), labelled=False)
    batches = take(SampleBatches([spec], 0, (8, 8)), 6)
    together = set()
    for number, batch in enumerate(batches):
        own = {int(id.split("-")[0]) for id in batch.ids}
        seen = set((batch.image[:, 0] * 25.5).round().int().unique().tolist())
        assert len(own) == 8 and seen == own, f"step {number} is one block"
        together |= own
        assert not batch.valid.any()
    assert together == set(range(24))


def test_colours_leave_geometry_alone_and_only_their_group(specs):
    pytest.importorskip("kornia")
    plain = groups(specs["manifest"])
    coloured = (plain[0], replace(plain[1], augment=COLOURS))
    for one, two in zip(*(take(SampleBatches(each, 7, SIZE), 5) for each in (plain, coloured)), strict=True):
        for name in ("clean", "target", "valid", "region", "pseudo"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert torch.equal(two.image[:2], two.clean[:2]) and not torch.equal(two.image[2:], two.clean[2:])
        assert two.image.min() >= 0 and two.image.max() <= 1


def test_colours_are_the_same_for_any_ranks_and_workers(specs):
    pytest.importorskip("kornia")
    spec = replace(groups(specs["manifest"])[1], augment=COLOURS)
    pair = (replace(spec, batch_size=2), spec)
    whole = take(SampleBatches(pair, 7, SIZE), 4)
    ranks = [take(SampleBatches(pair, 7, SIZE, rank=rank, world=2, num_workers=1), 4) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert same(batch, joined([part[step] for part in ranks], [2, 4]))


def test_a_partner_has_colours_of_its_own(tmp_path):
    pytest.importorskip("kornia")
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((30, 30, 3), 100, np.uint8))
    (tmp_path / "manifest.jsonl").write_text('{"image": "0.png"}\n{"image": "1.png"}')
    strength = Augmentation(jitter=1.0, blur=0.0)
    spec = GroupSpec((SetSpec("manifest", tmp_path),), 2, strength, 1.0, (0.3, 0.4), labelled=False)
    for batch in take(SampleBatches([spec], 0, (30, 30)), 3):
        assert len(batch.clean.unique()) == 1
        for image, region in zip(batch.image, batch.region, strict=True):
            inner, outer = image[0][~region].unique(), image[0][region].unique()
            assert len(inner) == len(outer) == 1 and inner != outer


# Where samples come from


def test_a_source_tree_gives_what_its_reader_gives(tmp_path):
    for scene, metres in (("Scene01", 5), ("Scene02", 7)):
        frames = tmp_path / scene / "clone" / "frames"
        values = np.full((28, 42), metres * 100, np.uint16)
        values[:14], values[14:, 21:] = 65535, 2 * metres * 100
        for kind, name, pixels in (
            ("rgb", "rgb_00000.jpg", np.full((28, 42, 3), metres * 10, np.uint8)),
            ("depth", "depth_00000.png", values),
        ):
            (frames / kind / "Camera_0").mkdir(parents=True)
            cv2.imwrite(str(frames / kind / "Camera_0" / name), pixels)
    spec = SetSpec("vkitti2", tmp_path)
    assert open_set(spec).counts == [2]
    (batch,) = take(SampleBatches([GroupSpec((spec,), 2, flip=0.0)], 0, SIZE, "depth", max_depth_m=12.0), 1)
    for image, target, valid, id in zip(batch.image, batch.target, batch.valid, batch.ids, strict=True):
        metres = 5 if "Scene01" in id else 7
        assert image[0, 0, 0] * 255 == pytest.approx(metres * 10, abs=2)
        assert not valid[:14].any(), "sky"
        assert valid[14:, :21].all() and (target[14:, :21] == metres).all()
        assert valid[14:, 21:].all() == (2 * metres <= 12)


def test_packed_rows_are_the_rows(tmp_path):
    rows = [
        Row("a/ü.png", tmp_path / "a/ü.png"),
        Row("b", tmp_path / "b.tar", member="x/y.jpg"),
        Row("c", tmp_path / "c", tmp_path / "d", None, tmp_path / "\udce9", tmp_path / "cam", 7),
    ]
    read: list[Row] = []
    packed = RowSet(replace(SOURCES["images"], read=read.append), iter(rows))
    assert packed.counts == [3]
    for number in (2, 0, 1):
        packed.read(0, number)
    assert read == [rows[2], rows[0], rows[1]]


def test_maps_that_a_model_wrote_are_pseudo_labels(tmp_path):
    values = np.linspace(0.3, 4, 30 * 40, dtype=np.float32).reshape(30, 40)
    label = DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((30, 40, 3), np.uint8))
    meta = write_map(tmp_path / "a.png", label, "png16")
    row = {
        "input": str(tmp_path / "a.jpg"),
        "status": "done",
        "outputs": {"png16": "a.png"},
        "quantity": "disparity",
        "ambiguity": "scale-and-shift",
        **(meta or {}),
    }
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "status": "failed"}))
    assert open_set(SetSpec("manifest", tmp_path)).read(0, 0).pseudo
    group = GroupSpec((SetSpec("manifest", tmp_path),), 1, flip=0.0, pseudo=True)
    (batch,) = take(SampleBatches([group], 0, (30, 40)), 1)
    assert batch.pseudo.all() and batch.valid.all()
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(batch.target[0].numpy(), expected, atol=2e-5)


def test_weights_multiply_sizes(tmp_path):
    sizes = {"few": 2, "many": 6}
    for name, count in sizes.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{name}-{number}.png"), np.zeros((4, 4, 3), np.uint8))
    for weight, expected in ((1.0, 0.25), (3.0, 0.5)):
        sets = tuple(SetSpec("images", tmp_path / name, weight=weight if name == "few" else 1.0) for name in sizes)
        stream = SampleBatches([GroupSpec(sets, 400, labelled=False)], 0, (4, 4))
        (batch,) = take(stream, 1)
        found = Counter(id.rpartition("/")[2].split("-")[0] for id in batch.ids)
        assert stream.num_samples == (8,)
        assert found["few"] / 400 == pytest.approx(expected, abs=0 if weight == 1 else 0.08)


def test_a_sky_mask_fills_what_the_label_leaves_open(folder, tmp_path):
    for number in range(len(SHAPES)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8), 255, np.uint8))
    bare, masked = (open_set(SetSpec("manifest", folder, sky=sky)) for sky in (None, tmp_path))
    for number in range(len(SHAPES)):
        before, after = (each.read(0, number).depth.values for each in (bare, masked))
        np.testing.assert_array_equal(after, np.where(np.isnan(before), np.inf, before))
    (tmp_path / "3.png").unlink()
    with pytest.raises(DatoolError, match=r"3\.png"):
        masked.read(0, 3)


@pytest.mark.parametrize("quantity", [Quantity.DISPARITY, Quantity.DEPTH])
def test_sky_of_a_label_without_a_known_shift_is_its_farthest_value(quantity, tmp_path):
    values = np.full((8, 8), np.nan, np.float32)
    values[4:] = np.linspace(2, 5, 32).reshape(4, 8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:6] = 255
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    sample = Sample("a.jpg", np.zeros((8, 8, 3), np.uint8), DepthMap(values, quantity, Ambiguity.SCALE_AND_SHIFT))
    found = SkySet(_One(sample), tmp_path).read(0, 0).depth
    np.testing.assert_array_equal(found.values[4:], values[4:])
    np.testing.assert_array_equal(found.values[:4], 2 if quantity is Quantity.DISPARITY else 5)
    if quantity is Quantity.DISPARITY:
        assert (minmax_target(found, 0)[:4] == 0).all(), "V1's 0, once the map is brought to [0, 1]"
    nothing = replace(sample, depth=DepthMap(np.full((8, 8), np.nan, np.float32), quantity, sample.depth.ambiguity))
    assert not SkySet(_One(nothing), tmp_path).read(0, 0).depth.valid.any()


class _One:
    """A set of one sample."""

    counts: ClassVar = [1]

    def __init__(self, sample: Sample) -> None:
        self.read = lambda shard, number: sample


# What goes wrong


def test_what_does_not_divide_is_refused(specs):
    for arguments in ({"world": 4}, {"micro": 4}, {"world": 2, "micro": 2}):
        with pytest.raises(DatoolError, match="expected a multiple of 4"):
            SampleBatches(groups(specs["manifest"]), 0, SIZE, **arguments)


def test_unlabelled_photos_are_refused_where_labels_are_needed(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    stream = SampleBatches([GroupSpec((SetSpec("images", tmp_path),), 1)], 0, (4, 4))
    with pytest.raises(DatoolError, match=r"sample a\.png has no label"):
        take(stream, 1)


def test_a_label_of_another_kind_names_its_sample(specs, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    row = {"image": "a.png", "depth": "a.npy", "ambiguity": "scale-and-shift"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    stream = SampleBatches([GroupSpec((SetSpec("manifest", tmp_path),), 1)], 0, (4, 4))
    with pytest.raises(DatoolError, match=r"label of sample a\.png: cannot turn depth"):
        take(stream, 1)


@pytest.fixture
def broken(tmp_path):
    lines = []
    for number in range(8):
        name = f"{number}.png"
        cv2.imwrite(str(tmp_path / name), np.full((4, 4, 3), number, np.uint8))
        lines.append(json.dumps({"image": name}))
    (tmp_path / "5.png").write_bytes(b"no picture")
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return GroupSpec((SetSpec("manifest", tmp_path),), 4, labelled=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_or_skipped(broken, workers):
    with pytest.raises(DatoolError, match=r"5\.png") as raised:
        take(SampleBatches([broken], 0, (4, 4), num_workers=workers), 2)
    assert "Traceback" not in str(raised.value)
    whole = take(SampleBatches([replace(broken, skip_broken=True)], 0, (4, 4), num_workers=workers), 4)
    ids = [id for batch in whole for id in batch.ids]
    assert len(ids) == 16 and "5.png" not in ids
    stream = SampleBatches([replace(broken, skip_broken=True)], 0, (4, 4), rank=1, world=2)
    ranked = [id for batch in take(stream, 4) for id in batch.ids]
    assert ranked == [id for batch in whole for id in batch.ids[2:]]
    assert all("5.png" in reason for reason in stream.skipped.values())


def test_where_all_is_broken_the_run_stops(broken):
    (spec,) = broken.sets
    for path in spec.root.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DatoolError, match=r"\.png"):
        take(SampleBatches([replace(broken, skip_broken=True)], 0, (4, 4)), 1)


def test_empty_and_unknown_sets_are_named(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(DatoolError, match="no samples in 'manifest'"):
        open_set(SetSpec("manifest", tmp_path))
    with pytest.raises(DatoolError, match="unknown data set"):
        open_set(SetSpec("hypersims"))
    with pytest.raises(DatoolError, match="packed shards"):
        open_set(SetSpec("shards"))


# Rendered scenes


def rendered(**more):
    fields = {"sizes": ((0.0, 28, 42), (0.5, 42, 56)), "zoom": 0.6, "strength": 0.7, "batch_size": 4, "steps": 4}
    return RenderedBatches(seed=3, num_scenes=6, scene_px=(42, 56), **{**fields, **more})


def test_rendered_ranks_and_micro_batches_are_the_step():
    whole, micro = take(rendered(), 4), take(rendered(micro=2), 4)
    ranks = [take(rendered(rank=rank, world=2), 4) for rank in range(2)]
    for step, batch in enumerate(whole):
        halves = [[part[step] for part in ranks], micro[2 * step : 2 * step + 2]]
        for parts in halves:
            assert batch.ids == parts[0].ids + parts[1].ids
            for name in ("image", "clean", "target", "valid", "region", "pseudo"):
                assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts])), name
    assert [tuple(batch.target.shape[1:]) for batch in whole] == [(28, 42), (28, 42), (42, 56), (42, 56)]
    assert all(same(one, two) for one, two in zip(whole[2:], take(rendered(), 2, 2), strict=True))
    assert rendered().num_samples == (6,)


# Batches


def test_a_part_of_a_batch_holds_its_samples():
    image, target = torch.rand(4, 3, 2, 2), torch.rand(4, 2, 2)
    batch = Batch.of(image, target, target > 0.2)
    mask = torch.tensor([False, True, False, True])
    for part in (batch.part(slice(1, None, 2)), batch.part(torch.tensor([1, 3])), batch.part(mask)):
        assert part.ids == ("1", "3") and len(part) == 2
        assert torch.equal(part.image, image[[1, 3]]) and torch.equal(part.valid, batch.valid[[1, 3]])
        assert part.clean is part.image
    augmented = Batch.of(image, target, target > 0.2, clean=image + 1).to("cpu").part(slice(0, 2))
    assert torch.equal(augmented.clean, image[:2] + 1)
