"""Files: list and read images, write and read maps, name outputs, write whole or not at all."""

from datool.files.atomic import write_bytes
from datool.files.images import MAX_PIXELS, decode_image, read_image
from datool.files.listing import IMAGE_SUFFIXES, ImageFile, list_images, walk_images
from datool.files.lock import LOCK, held
from datool.files.maps import MAP_FORMATS, MapFormat, read_map, read_meta, write_map
from datool.files.names import check_formats, output_path, plan_outputs

__all__ = [
    "IMAGE_SUFFIXES",
    "LOCK",
    "MAP_FORMATS",
    "MAX_PIXELS",
    "ImageFile",
    "MapFormat",
    "check_formats",
    "decode_image",
    "held",
    "list_images",
    "output_path",
    "plan_outputs",
    "read_image",
    "read_map",
    "read_meta",
    "walk_images",
    "write_bytes",
    "write_map",
]
