"""Predict the example photos from Python, and draw photo, prediction and truth: `python examples/02_from_python.py`.

Writes examples/predicted.jpg, the picture in the README.
"""

from pathlib import Path

import cv2
import numpy as np

import datool
from datool.colour import to_picture
from datool.files import read_image, read_map

HERE = Path(__file__).parent
SHOWN = (("indoor-2", "outdoor-5"), ("outdoor-6", "table-top-7"), ("indoor-3", "table-top-9"))

predictor = datool.load("tiny")
rows = []
for names in SHOWN:
    row = []
    for name in names:
        photo = read_image(HERE / "photos" / f"{name}.jpg")
        prediction = predictor.predict(photo)
        truth = read_map(HERE / "truth" / f"{name}.png")
        row += [photo, to_picture(prediction), to_picture(truth)]
    rows.append(np.hstack([cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA) for picture in row]))
picture = np.vstack(rows)[:, :, ::-1]
cv2.imwrite(str(HERE / "predicted.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
