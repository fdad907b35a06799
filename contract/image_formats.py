"""The formats of image files: which can be read here, and what the others need."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from PIL import features

FORMATS_EXTRA = "pip install 'unfreeze[formats]'"
_ALWAYS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga"),
)
_IN_PILLOW = {
    "webp": (".webp",),
    "avif": (".avif",),
    "jpg_2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
"""Suffixes by the feature of Pillow that reads them; a Pillow may be built without it."""
_HEIF, _JPEG_XL = (".heic", ".heif", ".hif"), (".jxl",)
_PLUGINS = {"pillow_heif": ("HEIC", _HEIF), "pillow_jxl": ("JPEG XL", _JPEG_XL)}
_CONVERT = {
    "a camera's raw file: export it as JPEG or TIFF": (
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef"),
        *(".srw", ".x3f", ".3fr", ".iiq"),
    ),
    "a medical image: export it as PNG or TIFF": (".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd"),
    "a whole slide: cut it into tiles of PNG or JPEG": (".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif"),
    "no photo but a document or a drawing: export it as PNG": (
        *(".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai", ".eps", ".pdf", ".djvu", ".emf", ".wmf"),
    ),
    "a format that is not read: convert it to PNG, JPEG or TIFF": (
        *(".exr", ".hdr", ".fits", ".fit", ".dds", ".pcx", ".sgi", ".xbm", ".xpm", ".qoi", ".icns", ".cur"),
        *(".flif", ".bpg", ".jxr", ".wdp", ".jls", ".pfm", ".jng", ".mng"),
    ),
}
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

KNOWN_SUFFIXES: dict[str, str] = {
    **{suffix: f"a Pillow with {feature}" for feature, known in _IN_PILLOW.items() for suffix in known},
    **{suffix: FORMATS_EXTRA for _, known in _PLUGINS.values() for suffix in known},
    **{suffix: what for what, known in _CONVERT.items() for suffix in known},
}
"""What a file of a suffix needs, or is, where `readable_suffixes` does not name it: the suffixes of all image
formats that are known."""


def readable_suffixes() -> frozenset[str]:
    """Suffixes, in small letters with their dot, of the image files that can be read here."""
    found = set(_ALWAYS)
    for feature, suffixes in _IN_PILLOW.items():
        if features.check(feature):
            found.update(suffixes)
    for module, (_, suffixes) in _PLUGINS.items():
        if find_spec(module) is not None:
            found.update(suffixes)
    return frozenset(found)


def load_plugin(content: bytes) -> str:
    """Register the plug-in that reads a file, given its first bytes; returns what the file needs if it lacks.

    Pillow's own formats need none, so that a set without others never imports one.
    """
    if content[4:8] == b"ftyp" and content[8:12] in _BRANDS:
        return _register("pillow_heif")
    if content.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return _register("pillow_jxl")
    return ""


def _register(module: str) -> str:
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        return f"{_PLUGINS[module][0]} needs {FORMATS_EXTRA}"
    if module == "pillow_heif":
        plugin.register_heif_opener()
    return ""
