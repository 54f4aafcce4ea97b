"""Make point clouds of the example photos, and draw what a wrong focal length does: `python examples/03_pointcloud.py`.

Writes runs/clouds (a .ply, a .glb and a .html page each: open a page in a browser) and examples/pointcloud.jpg: photos,
their clouds seen from a little aside, and the clouds' ground plans with the right focal length and with half of it.
"""

from pathlib import Path

import cv2
import numpy as np

from datool.depth import Camera, Quantity
from datool.files import read_image, read_map
from datool.geometry import Cut, Shot, read_intrinsics, splat
from datool.jobs.pointcloud.pointcloud import CloudOptions, pointcloud

HERE = Path(__file__).parent
SHOWN = ("indoor-2", "indoor-3")
WIDTH, HEIGHT = 320, 240

options = CloudOptions(
    inputs=[str(HERE / "photos.jsonl")], out=HERE.parent / "runs" / "clouds", formats=("ply", "glb", "html")
)
summary = pointcloud(options)
assert not summary.failed, summary.failed


def shot_of(name: str, focal: float) -> Shot:
    """Return an example with ``focal`` times its right focal length."""
    photo = read_image(HERE / "photos" / f"{name}.jpg")
    depth = read_map(HERE / "truth" / f"{name}.png").to(Quantity.DEPTH)
    known = read_intrinsics(HERE / "photos.jsonl").of(HERE / "photos" / f"{name}.jpg")
    assert known is not None, "photos.jsonl has the camera of each"
    right = known.camera(*depth.shape)
    camera = Camera(right.fx_px * focal, right.fy_px * focal, right.cx_px, right.cy_px, *depth.shape)
    return Shot.of(depth, camera, photo, Cut(max_depth=25.0))


def plan(shot: Shot, metres: float) -> np.ndarray:
    """Return the cloud from above, the camera at the middle of the lower border, so many metres high."""
    cloud = shot.cloud()
    x, _, z = cloud.points_n3.T * HEIGHT / metres
    column, row = (x + WIDTH / 2).astype(int), (HEIGHT - z).astype(int)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    picture = np.full((HEIGHT, WIDTH, 3), 24, np.uint8)
    picture[row[inside], column[inside]] = cloud.colours_n3[inside]
    return picture


rows = []
for name in SHOWN:
    shot = shot_of(name, 1.0)
    metres = 1.05 * float(np.quantile(shot.cloud().points_n3[:, 2], 0.99))
    pictures = [shot.photo, splat(shot.cloud(), shot.camera), plan(shot, metres), plan(shot_of(name, 0.5), metres)]
    rows.append(np.hstack([cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for picture in pictures]))
cv2.imwrite(str(HERE / "pointcloud.jpg"), np.vstack(rows)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
