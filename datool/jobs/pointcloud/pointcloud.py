"""Clouds and meshes of photos, maps and manifests: each whole, each accounted for, a rerun only does what is left."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datool import __version__
from datool.calibration import read_calibration
from datool.colour import to_picture
from datool.data.manifest import MANIFEST, append_row, write_manifest
from datool.data.outputs import MIXING, is_finished, sweep
from datool.depth import Ambiguity, Camera, DepthMap
from datool.errors import DatoolError, lookup
from datool.files import held, plan_outputs, read_image, write_bytes
from datool.files.atomic import disk_is_full
from datool.files.images import explained
from datool.files.stored_map import UNSAID, MapMeaning, refuse_depth
from datool.geometry import (
    AXES,
    CLOUD_FORMATS,
    CameraFinder,
    Cut,
    Frame,
    ScaleFinder,
    Scene,
    Shot,
    fuse,
    read_intrinsics,
    read_poses,
)
from datool.geometry.poses import turned_down
from datool.geometry.scale import WAYS
from datool.jobs.pointcloud.cloud_manifest import CloudRow, read_clouds
from datool.jobs.pointcloud.inputs import View, list_views
from datool.progress import Progress, messages

# What needs torch (seconds to import) is imported where it is used.
if TYPE_CHECKING:
    from datool.estimators.load import OpenedModel

FUSED = "fused"
# A voxel of fused frames where none is given: this share of the first frame's median depth.
FUSED_VOXEL = 0.005
# Options that do not decide what is in the files.
UNSETTLED = ("inputs", "out", "model", "device", "overwrite", "as_photo")


@dataclass(frozen=True, kw_only=True)
class CloudOptions:
    """What to turn into points, how, and where to.

    Args:
        inputs: photos, maps, manifests and folders of them, as `datool.jobs.pointcloud.inputs.list_views` takes them.
        out: output folder; sub-folders of the inputs are mirrored in it.
        formats: names of `datool.geometry.CLOUD_FORMATS`.
        model, size_px, device: what predicts photos without depth; as for `datool predict`.
        meaning: of maps that do not say what they hold.
        photos: folder with the maps' photos, of the same relative names; None = beside them, if there are any.
        as_photo: whether 16-bit grey pictures, which are depth maps mostly, are photos.
        focal_px, fov_deg, intrinsics, assume_fov: as for `datool.geometry.CameraFinder`.
        calibration: file of `datool calibrate`, which makes relative disparity metric.
        relative: whether a map without scale may become a cloud without a unit.
        edge, grazing_deg: as for `datool.geometry.Cut`.
        max_depth_m: farther points are left out.
        min_confidence: pixels below it are left out where a manifest's row has a ``confidence`` map.
        voxel_m: one point a cube of that side; with ``fuse`` the resolution.
        max_points: as many are kept, drawn at random by ``seed``.
        axes: name of `datool.geometry.AXES`; a mesh in glTF is always y-up.
        fuse: one cloud of all frames, whose poses are known, instead of one each.
        poses: file of camera-to-world matrices; None = the rows' ``pose``.
        overwrite: do all again, and replace files that stand in the way.
    """

    inputs: Sequence[str]
    out: Path
    formats: Sequence[str] = ("ply",)
    model: str = "auto"
    size_px: int | None = None
    device: str = "auto"
    meaning: MapMeaning = UNSAID
    photos: Path | None = None
    as_photo: bool = False
    focal_px: float | None = None
    fov_deg: float | None = None
    intrinsics: Path | None = None
    assume_fov: float | None = None
    calibration: Path | None = None
    relative: bool = False
    edge: float = Cut.edge
    grazing_deg: float = Cut.grazing_deg
    max_depth_m: float | None = None
    min_confidence: float | None = None
    voxel_m: float | None = None
    max_points: int | None = None
    seed: int = 0
    axes: str = "y-down"
    fuse: bool = False
    poses: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class CloudSummary:
    """What a run did.

    Args:
        out: the output folder.
        done, skipped: pictures finished now, and by earlier runs.
        failed: input and reason of each that failed.
        points: written now.
        cameras: what told the camera -> of how many pictures.
        depths: where depth is from -> of how many.
        formats: what was written.
        seconds: from start to end.
    """

    out: Path
    done: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    points: int
    cameras: Mapping[str, int]
    depths: Mapping[str, int]
    formats: tuple[str, ...]
    seconds: float


def pointcloud(options: CloudOptions, progress: Callable[[Progress], None] = lambda _: None) -> CloudSummary:
    """Write the cloud of every picture that the inputs name, and ``manifest.jsonl`` with a row each.

    A picture whose depth has no scale, or whose camera nobody knows, is a ``failed`` row that names the ways out; the
    others go on. The run may be killed at any moment: no output is ever half-written, and the same call goes on.

    Args:
        options: what, how and where to.
        progress: called after each picture, and with messages.
    Raises:
        DatoolError: no such input, file or format; a relative model without a way to metres; ``out`` is in use, or
            holds clouds of other settings or files that are not datool's; or the disk is full.
    """
    started = time.monotonic()
    _check(options)
    out = options.out
    views = list_views(options.inputs, options.meaning, options.photos, exclude=out)
    if options.min_confidence is not None and not any(view.has_confidence for view in views):
        raise DatoolError("--min-confidence is given, but no row has a confidence map.", 'Name it in "confidence".')
    plan = {view.key: out / stem for view, stem in zip(views, plan_outputs([v.file for v in views]), strict=True)}
    if len(plan) < len(views):
        twice = next(key for key, times in Counter(view.key for view in views).items() if times > 1)
        raise DatoolError(f"{twice} is named twice.", "Name it once.")
    if options.fuse:
        plan = {key: out / FUSED for key in plan}
    with held(out):
        rows = read_clouds(out)
        run = _Run(options, rows, plan, progress)
        keys = [*plan, run.fused] if options.fuse else list(plan)
        finished = {key for key in keys if key in rows and is_finished(out, rows[key]) and not options.overwrite}
        if options.fuse and len(finished) < len(keys):
            finished = set()  # every frame is in the result
        todo = [view for view in views if view.key not in finished]
        run.check(todo)
        sweep({out} | {plan[view.key].parent for view in todo if view.key in rows})
        rows |= {key: CloudRow(key, "pending", run.settings) for key in keys if key not in finished}
        write_manifest(out, rows.values())
        run.process(todo, len(views) - len(todo))
    made = [rows[key] for key in keys if key not in finished]
    return CloudSummary(
        out=out,
        done=run.counts.done,
        skipped=run.counts.skipped,
        failed=tuple((row.input, row.reason) for row in made if row.status == "failed"),
        points=sum(row.points or 0 for row in made),
        cameras=Counter(row.camera_from for row in made if row.status == "done" and row.camera_from),
        depths=Counter(row.depth_from for row in made if row.status == "done" and row.input != run.fused),
        formats=tuple(options.formats),
        seconds=time.monotonic() - started,
    )


class _Run:
    """The pictures of one call on their way: read or predicted, turned into points, written, recorded."""

    def __init__(
        self,
        options: CloudOptions,
        rows: dict[str, CloudRow],
        plan: Mapping[str, Path],
        progress: Callable[[Progress], None],
    ) -> None:
        self.options, self.rows, self.plan, self.progress = options, rows, plan, progress
        self.counts = Progress(0)
        self.settings = _settings(options)
        self.fused = os.path.abspath(options.out / FUSED)
        intrinsics = None if options.intrinsics is None else read_intrinsics(options.intrinsics)
        self.finder = CameraFinder(options.focal_px, options.fov_deg, intrinsics, options.assume_fov)
        calibrations = None if options.calibration is None else read_calibration(options.calibration)
        self.scale = ScaleFinder(calibrations, str(options.calibration), options.relative)
        self.poses = None if options.poses is None else read_poses(options.poses)
        if self.poses is not None:
            self.poses.check_number(len(plan))
        self.number = {key: number for number, key in enumerate(plan)}
        self.cut = Cut(options.edge, options.grazing_deg, options.max_depth_m)

    def check(self, todo: Sequence[View]) -> None:
        """Refuse to mix settings or frames, and to write over an input, another's cloud or a file not datool's."""
        out, options = self.options.out, self.options
        for row in self.rows.values():
            for name, value in self.settings.items():
                if row.status == "done" and row.settings.get(name) != value and not options.overwrite:
                    before = row.settings.get(name)
                    raise DatoolError(f"{out} holds clouds of another run: {name} was {before}, now {value}.", MIXING)
        strangers = set(self.rows) - set(self.plan) - {self.fused} if options.fuse else ()
        for key in sorted(strangers):
            if not options.overwrite:
                raise DatoolError(f"{out} holds the frame {key}, which is not named now.", MIXING)
            del self.rows[key]
        owners = {os.path.abspath(out / path): row.input for row in self.rows.values() for path in row.outputs.values()}
        inputs = set(self.plan) | {os.path.abspath(view.photo) for view in todo if view.photo}
        for view in todo:
            for format in options.formats:
                path = os.path.abspath(f"{self.plan[view.key]}{CLOUD_FORMATS[format].suffix}")
                owner = owners.get(path, view.key)
                if owner not in (view.key, self.fused) and not options.overwrite:
                    raise DatoolError(f"{path} is the cloud of {owner}; {view.file.path} would replace it.", MIXING)
                known = path in owners or options.overwrite or view.key in self.rows
                if path in inputs or (not known and os.path.lexists(path)):
                    raise DatoolError(f"{path} exists, and {out}/{MANIFEST} does not say that datool wrote it.", MIXING)

    def process(self, todo: Sequence[View], skipped: int) -> None:
        """Do ``todo``; however it ends, what was finished is recorded."""
        self.counts = Progress(len(todo), skipped=skipped)
        self.progress(self.counts)
        try:
            if self.options.fuse and todo:
                self._fuse(todo)
            elif todo:
                for row, shot in self._shots(todo):
                    self._record(row if shot is None else self._write(row, shot))
        finally:
            write_manifest(self.options.out, self.rows.values())

    # From a picture to a shot

    def _shots(self, todo: Sequence[View]) -> Iterator[tuple[CloudRow, Shot | None]]:
        """Yield each picture's row and its shot, None where it failed: first those with depth, then those without."""
        for view in todo:
            if not view.is_predicted:
                row = CloudRow(view.key, "done", self.settings, depth_from="the data set" if view.entry else "map")
                try:
                    image, depth = view.read()
                    assert depth is not None, "what has no depth is predicted"
                    found = self._camera(view, depth.values if image is None else image)
                    yield self._shot(view, row, image, depth, found)
                except DatoolError as error:
                    yield _failed(row, error), None
        photos = [view for view in todo if view.is_predicted]
        if photos:
            yield from self._predicted(photos)

    def _predicted(self, photos: Sequence[View]) -> Iterator[tuple[CloudRow, Shot | None]]:
        opened = self._open_model()
        loaded, predictor = opened.model, opened.predictor
        if self.scale.calibrations is not None:
            self.scale.calibrations.check_model(loaded.name, loaded.sha256, predictor.size_px)
        told = f"{loaded.name}, short side {predictor.size_px}"
        done = CloudRow(
            input="",
            status="done",
            settings=self.settings,
            depth_from=told,
            model=loaded.name,
            model_spec=opened.spec(self.options.model),
            model_sha256=loaded.sha256,
        )

        def read(view: View) -> np.ndarray:
            # What has no calibration, or a camera that nobody knows, is not worth predicting.
            if self.scale.calibrations is not None:
                self.scale.calibrations.of(str(view.file.path))
            if not self.options.as_photo:
                refuse_depth(view.file.path)
            image = read_image(view.file.path)
            self._camera(view, image)
            return image

        with closing(predictor.stream(photos, read, keep_images=True)) as predictions:
            for prediction in predictions:
                view, depth, image = prediction.item, prediction.result, prediction.image
                row = replace(done, input=view.key)
                try:
                    if isinstance(depth, DatoolError):
                        raise depth
                    assert image is not None, "asked for"
                    yield self._shot(view, row, image, depth, self._camera(view, image))
                except DatoolError as error:
                    yield _failed(row, error), None

    def _open_model(self) -> OpenedModel:
        """Return the model, before anything is predicted that could not be used."""
        from datool.estimators.load import ModelOptions, open_predictor

        options = self.options
        recorded = next((row.model_spec for row in self.rows.values() if row.model_spec), None)
        asked = ModelOptions(model=options.model, device=options.device, size_px=options.size_px)
        opened = open_predictor(asked, messages(self.progress), recorded)
        name, sha256 = opened.model.name, opened.model.sha256
        if opened.predictor.card.ambiguity is not Ambiguity.NONE and not self.scale.takes_all:
            raise DatoolError(f"{name} predicts disparity without scale and zero: no shape.", WAYS)
        for row in self.rows.values():
            if row.model_sha256 not in ("", sha256) and not options.overwrite:
                raise DatoolError(f"{options.out} holds clouds of another model, {row.model}.", MIXING)
        return opened

    def _shot(
        self, view: View, row: CloudRow, image: np.ndarray | None, depth: DepthMap, found: tuple[Camera, str]
    ) -> tuple[CloudRow, Shot]:
        """Return the row with what is known of the shot, and the shot."""
        options, (camera, told) = self.options, found
        metric, how = self.scale.depth(depth, view.photo or view.file.path, view.predicted_by())
        usable = view.usable(depth.shape, options.min_confidence)
        photo = to_picture(depth) if image is None else image
        shot = Shot.of(metric, camera, photo, self.cut, usable, "m" if metric.ambiguity is Ambiguity.NONE else "")
        pose = self._pose(view, camera).tolist() if options.fuse else None
        told_depth = "; ".join(filter(None, (row.depth_from, how)))
        row = replace(row, camera=asdict(camera), camera_from=told, depth_from=told_depth, unit=shot.unit, pose=pose)
        return replace(row, dropped=shot.surface.dropped), shot

    def _camera(self, view: View, image: np.ndarray) -> tuple[Camera, str]:
        """Return the camera of a picture of the array's size, and what told it."""
        size = image.shape[0], image.shape[1]
        return self.finder.find(view.file.path, view.photo, size, view.camera(*size))

    def _pose(self, view: View, camera: Camera) -> np.ndarray:
        pose = view.pose()
        if self.poses is not None:
            pose = self.poses.of(view.photo or view.file.path, self.number[view.key])
        if pose is None:
            raise DatoolError(f"no pose is known of {view.file.path}.", 'Give --poses FILE, or "pose" in its row.')
        return turned_down(pose) if camera.fy_px < 0 else pose

    # From a shot to files

    def _fuse(self, todo: Sequence[View]) -> None:
        """Write one scene of all frames whose shot and pose are known."""
        found = (self._recorded(row, shot) for row, shot in self._shots(todo))
        frames = (frame for frame in found if frame is not None and frame.shot.surface.kept.any())
        row = CloudRow(self.fused, "done", self.settings, unit="m", depth_from=f"{len(todo)} frames")
        try:
            first = next(frames, None)
            if first is None:
                raise DatoolError("no frame is left to fuse.")
            depth = first.shot.depth.values[first.shot.surface.kept]
            voxel = self.options.voxel_m or float(FUSED_VOXEL * np.median(depth))
            cloud, mesh = fuse(chain([first], frames), voxel)
            seen = cloud.moved(np.linalg.inv(first.pose))
            row = self._written(row, Scene(seen, lambda: mesh, first.shot.camera, first.pose, voxel=voxel))
            self._record(row, counted=False)
        except DatoolError as error:
            if disk_is_full(error):
                raise
            self._record(_failed(row, error), counted=False)

    def _recorded(self, row: CloudRow, shot: Shot | None) -> Frame | None:
        self._record(row)
        return None if shot is None else Frame(shot, np.array(row.pose))

    def _write(self, row: CloudRow, shot: Shot) -> CloudRow:
        """Write one picture's scene; a full disk is raised, since it meets the others too."""
        voxel = self.options.voxel_m or 0.0
        try:
            cloud = shot.cloud()
            cloud = cloud.by_voxel(voxel) if voxel else cloud
            return self._written(row, Scene(cloud, shot.mesh, shot.camera, voxel=voxel))
        except DatoolError as error:
            if disk_is_full(error):
                raise
            return _failed(row, error)

    def _written(self, row: CloudRow, scene: Scene) -> CloudRow:
        """Write a scene in all formats; return its row."""
        options, out, whole = self.options, self.options.out, scene.cloud
        if not len(whole):
            left_out = ", ".join(f"{number} {reason}" for reason, number in (row.dropped or {}).items() if number)
            raise DatoolError(f"no point is left of {row.input}: {left_out or 'nothing was seen'}.")
        thin = whole if options.max_points is None else whole.thinned(options.max_points, options.seed)
        unit = "metres" if whole.unit else "none"
        stem = self.plan.get(row.input, out / FUSED)
        scene = replace(
            scene,
            cloud=thin,
            share=len(thin) / len(whole),
            axes=options.axes,
            name=stem.name,
            comments=(f"datool {__version__}", f"unit: {unit}; axes: {options.axes}", f"depth: {row.depth_from}"),
        )
        paths = {name: stem.with_name(stem.name + CLOUD_FORMATS[name].suffix) for name in options.formats}
        for name, path in paths.items():
            write_bytes(path, CLOUD_FORMATS[name].encode(scene))
        outputs = {name: path.relative_to(out).as_posix() for name, path in paths.items()}
        return replace(row, outputs=outputs, points=len(thin))

    def _record(self, row: CloudRow, counted: bool = True) -> None:
        self.rows[row.input] = row
        append_row(self.options.out, row)
        if counted:
            name = "done" if row.status == "done" else "failed"
            self.counts = replace(self.counts, **{name: getattr(self.counts, name) + 1})
            self.progress(self.counts)


def _check(options: CloudOptions) -> None:
    """Refuse what cannot be, before anything is read."""
    lookup(AXES, options.axes, "axes")
    for format in options.formats:
        lookup(CLOUD_FORMATS, format, "format").prepare()
    if not options.formats:
        raise DatoolError("no output format given.", f"Known: {', '.join(CLOUD_FORMATS)}.")
    for name in ("voxel_m", "max_points", "max_depth_m", "edge"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise DatoolError(f"--{name.replace('_', '-')} is {value:g}, expected a number above 0.")
    if not 0 <= options.grazing_deg < 90:
        raise DatoolError(f"--grazing-deg is {options.grazing_deg:g}, expected 0 to 90 degrees.")
    if options.seed < 0:
        raise DatoolError(f"--seed is {options.seed}, expected 0 or more.")
    if options.relative and (options.max_depth_m or options.voxel_m or options.fuse):
        raise DatoolError("--relative makes clouds without metres.", "Drop --max-depth-m, --voxel-m and --fuse.")
    if options.poses is not None and not options.fuse:
        raise DatoolError("--poses is for --fuse, which is not given.", "Add --fuse.")


def _settings(options: CloudOptions) -> dict[str, Any]:
    """Return what decides the files' content, for the manifest: files by their hashes."""
    settings: dict[str, Any] = {}
    for name, value in vars(options).items():
        if name in UNSETTLED:
            continue
        if name == "photos":
            value = None if value is None else str(value)
        elif isinstance(value, Path):
            with explained(str(value)):
                value = sha256(value.read_bytes()).hexdigest()[:16]
        elif isinstance(value, MapMeaning):
            value = {key: str(item) for key, item in vars(value).items() if item != getattr(UNSAID, key)}
        settings[name] = sorted(value) if name == "formats" else value
    return settings


def _failed(row: CloudRow, error: DatoolError) -> CloudRow:
    return replace(row, status="failed", reason=str(error), outputs={})
