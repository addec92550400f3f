"""The images that a `Slide` reads, in words: for messages and for the help of verbs, which imports little."""

IMAGES = "SVS, NDPI, MRXS, SCN, BIF, VMS, CZI, DICOM, TIFF, OME-TIFF, PNG, JPEG, OME-Zarr"
SLIDES = f"{IMAGES} and slide stores"
