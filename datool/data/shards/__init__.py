"""Samples in tars: the same bytes each time, read in turn or by number.

A set is a folder, and its tars are what `webdataset` reads:

    000000.tar    000000000.jpg, 000000000.depth.exr, 000000000.json, 000000001.jpg, ...
    000000.json   the tar's done marker: its hash, where each sample begins, the rows that failed and why
    index.json    the set: settings, and name, count, bytes and hash of each tar; written last

A key is the number of the row it came from. A sample's json says ``id``, ``pseudo``, ``camera``, ``quantity`` and
``ambiguity``. A set of labels (`datool.labelling.label_set`) may leave the picture where it was; then the json says
where. Tars of others (img2dataset) are read too: what their json does not say is unknown, the id is the key.

Nothing is unpacked to disk. All the same a tar with a member that would leave its folder ("..", an absolute name), a
link or a device is refused: it is not what it says it is.

Source: webdataset.github.io (layout; a key ends at the first dot of a name); POSIX.1-1988 (ustar).
"""

from datool.data.shards.reading import INDEX, Failed, Shard, ShardSet, open_shards
from datool.data.shards.samples import (
    DEPTH,
    IMAGE_ENDINGS,
    JSON,
    Members,
    decode_sample,
    encode_label,
    encode_sample,
    image_ending,
)
from datool.data.shards.writing import ShardWriter

__all__ = [
    "DEPTH",
    "IMAGE_ENDINGS",
    "INDEX",
    "JSON",
    "Failed",
    "Members",
    "Shard",
    "ShardSet",
    "ShardWriter",
    "decode_sample",
    "encode_label",
    "encode_sample",
    "image_ending",
    "open_shards",
]
