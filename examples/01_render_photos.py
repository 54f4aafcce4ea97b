"""Render the pictures of examples/photos and their truth, in examples/truth: `python examples/01_render_photos.py`.

They are datool's own scenes, so that nothing in this folder belongs to anybody else, and none of them is among those
that the bundled model was trained on (another seed). examples/photos.jsonl names each picture, its truth (disparity in
1/m) and its camera.
"""

import json
from pathlib import Path

import cv2

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.files import write_map
from datool.render import Look, render

HERE = Path(__file__).parent
SEED, HEIGHT_PX, WIDTH_PX = 7, 480, 640
CHOSEN = {"indoor": (3, 5, 9), "outdoor": (4, 5, 8), "table-top": (1, 4, 9)}

rows = []
(HERE / "photos").mkdir(exist_ok=True)
for family, indices in CHOSEN.items():
    scenes = render(SEED, indices, HEIGHT_PX, WIDTH_PX, family=family, look=Look.plain())
    for image, depth, camera in zip(scenes.image_b3hw, scenes.depth_bhw, scenes.camera_b4, strict=True):
        name = f"{family}-{len(rows) + 1}"
        bgr = image.permute(1, 2, 0).numpy()[:, :, ::-1]
        cv2.imwrite(str(HERE / "photos" / f"{name}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
        # As disparity, since 65534 even steps up to a horizon kilometres away would leave centimetres near the camera.
        truth = DepthMap(depth.numpy(), Quantity.DEPTH, Ambiguity.NONE).to(Quantity.DISPARITY)
        write_map(HERE / "truth" / f"{name}.png", truth, "png16")
        camera_px = [round(value, 3) for value in camera.tolist()]
        rows.append({"image": f"photos/{name}.jpg", "depth": f"truth/{name}.png", "camera_px": camera_px})
(HERE / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
