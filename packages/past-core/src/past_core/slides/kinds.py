"""What slides are called, for scans of folders, and how their files begin, which tells what they are."""

SLIDE_SUFFIXES = (
    ".ome.tiff",
    ".ome.tif",
    ".ome.zarr",
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".czi",
    ".svslide",
    ".tiff",
    ".tif",
    ".png",
    ".jpeg",
    ".jpg",
    ".zarr",
)
"""Every ending, compound ones before their parts, so that the first that fits is the one to cut off."""

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PLAIN_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
