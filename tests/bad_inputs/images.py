"""Images that are none, that are damaged, or that ask for too much; special files and links among them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from bad_input_cases import Case, Place
from PIL import Image

Make = Callable[[Place], tuple[object, ...]]
CSV = ("out.csv",)
PIPE = "a named pipe, socket or device, no regular file"


def _predict(place: Place, images: object) -> tuple[object, ...]:
    return ("predict", place.bundle(), images, "--out", "out.csv")


def _train(place: Place) -> tuple[object, ...]:
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.out)


def _audit(place: Place) -> tuple[object, ...]:
    return ("data", "audit", f"folder:{place.cells()}")


def _one(name: str, content: Callable[[], bytes]) -> Make:
    """A single file of this content given to `predict`."""
    return lambda place: _predict(place, place.file(name, content()))


def _among(name: str, content: Callable[[], bytes], command: Make) -> Make:
    """A file of this content among the neutrophils."""

    def make(place: Place) -> tuple[object, ...]:
        place.cells()
        place.file(f"cells/neutrophil/{name}", content())
        return command(place)

    return make


def _linked(name: str, target: str, command: Make) -> Make:
    def make(place: Place) -> tuple[object, ...]:
        place.image("away/far.png", seed=7)
        (place.cells() / "neutrophil" / name).symlink_to(target)
        return command(place)

    return make


def _pipe(command: Make) -> Make:
    def make(place: Place) -> tuple[object, ...]:
        os.mkfifo(place.cells() / "neutrophil" / "pipe.png")
        return command(place)

    return make


def _png_of(width: int, height: int) -> bytes:
    """A PNG that states a size and holds one line of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _encoded(kind: str, size: tuple[int, int] = (40, 40)) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _half(kind: str) -> Callable[[], bytes]:
    def cut() -> bytes:
        content = _encoded(kind)
        return content[: len(content) // 2]

    return cut


def _looping_tiff() -> bytes:
    content = bytearray(_encoded("TIFF"))
    (first,) = struct.unpack_from("<I", content, 4)
    (n_tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * n_tags, first)
    return bytes(content)


def _float_tiff() -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((40, 40, 3), np.float32), photometric="rgb")
    return stream.getvalue()


def _gif_of(n_frames: int) -> bytes:
    frames = [Image.fromarray(np.full((40, 40), 60 * i, np.uint8)) for i in range(n_frames)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _no_entry(place: Place) -> tuple[object, ...]:
    (place.folder / "empty").mkdir()
    return _predict(place, place.folder / "empty")


def _page_that_is_not_there(place: Place) -> tuple[object, ...]:
    tifffile.imwrite(place.folder / "s.tif", np.zeros((2, 40, 40, 3), np.uint8), photometric="rgb")
    return _predict(place, "s.tif#7")


def _row_of_a_page_that_is_not_there(place: Place) -> tuple[object, ...]:
    tifffile.imwrite(place.folder / "s.tif", np.full((2, 40, 40, 3), 99, np.uint8), photometric="rgb")
    place.file("t.csv", "path,label\ns.tif#1,neutrophil\ns.tif#9,lymphocyte\n")
    return ("train", "stub", "--train", "csv:t.csv", "--out", place.out)


def _only_links_out(place: Place) -> tuple[object, ...]:
    place.image("away/far.png")
    (place.folder / "links").mkdir()
    (place.folder / "links" / "a.png").symlink_to(place.folder / "away" / "far.png")
    return _predict(place, "links")


def _folder_loop(place: Place) -> tuple[object, ...]:
    (place.cells() / "neutrophil" / "up").symlink_to("..")
    (place.cells() / "up").symlink_to(".")
    return _audit(place)


def _link_to_everything(place: Place) -> tuple[object, ...]:
    (place.cells() / "neutrophil" / "all").symlink_to("/")
    return _audit(place)


def _row_out_of_the_folder(place: Place) -> tuple[object, ...]:
    far = place.image("away/far.png")
    (place.folder / "t").mkdir()
    (place.folder / "t" / "a.png").symlink_to(far)
    place.file("t/t.csv", "path,label\na.png,neutrophil\n")
    return ("data", "audit", "csv:t/t.csv")


def _empty_pipe_alone(place: Place) -> tuple[object, ...]:
    os.mkfifo(place.folder / "a.png")
    return _predict(place, "a.png")


def _pipe_as(option: str) -> Make:
    def make(place: Place) -> tuple[object, ...]:
        os.mkfifo(place.folder / "pipe")
        return (*_train(place), option, "pipe")

    return make


def _flat(place: Place) -> tuple[object, ...]:
    for name, level in (("black", 3), ("white", 250), ("flat", 128)):
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(place.cells() / "neutrophil" / f"{name}.png")
    return _audit(place)


def _corrupt_exif(place: Place) -> tuple[object, ...]:
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 0x010E, 2, 400, 4000) + b"\x01"
    Image.new("RGB", (40, 40), (200, 20, 90)).save(place.cells() / "neutrophil" / "odd.jpg", exif=block)
    return _audit(place)


def _whole(place: Place, name: str) -> Path:
    return place.cells() / "neutrophil" / name


TEXT = "no image".encode
CASES = (
    Case(
        "a text among the images",
        _among("text.png", TEXT, _train),
        ("1 of 13 images", "text.png", "is not a readable image"),
        stub=True,
    ),
    Case(
        "an empty file among the images",
        _among("a.png", bytes, _train),
        ("1 of 13 images", "a.png' is empty (0 bytes)"),
        stub=True,
    ),
    Case(
        "half a JPEG in the audit",
        _among("a.jpg", _half("JPEG"), _audit),
        ("unreadable: 1", "a.jpg' is damaged or truncated"),
        0,
    ),
    Case(
        "half a PNG among the images of predict",
        lambda p: _predict(p, _among("a.png", _half("PNG"), lambda q: (q.cells(),))(p)[0]),
        ("unreadable: 1", "a.png' is damaged"),
        0,
        CSV,
    ),
    Case("half a WebP", _one("a.webp", _half("WEBP")), ("no prediction: ", "a.webp'"), 2, CSV),
    Case("half a GIF", _one("a.gif", _half("GIF")), ("no prediction: ", "a.gif'"), 2, CSV),
    Case(
        "a TIFF whose pages form a loop", _one("a.tif", _looping_tiff), ("no prediction: ", "the pages form a loop"), 2, CSV
    ),
    Case("a TIFF of floats", _one("a.tif", _float_tiff), ("no prediction: ", "floating point"), 2, CSV),
    Case(
        "an animated GIF",
        _one("a.gif", lambda: _gif_of(3)),
        ("no prediction: ", "several frames", "Save the frames"),
        2,
        CSV,
    ),
    Case(
        "a PNG that states 100,000 x 100,000 px",
        _one("a.png", lambda: _png_of(100_000, 100_000)),
        ("no prediction: ", "too large"),
        2,
        CSV,
    ),
    Case(
        "a PNG that states 8,001 x 8,000 px",
        _among("a.png", lambda: _png_of(8001, 8000), _train),
        ("a.png' is too large (8001x8000 px)",),
        stub=True,
    ),
    Case(
        "an image of 7 px",
        _one("a.png", lambda: _encoded("PNG", (7, 50))),
        ("no prediction: ", "too small", "7x50 px"),
        2,
        CSV,
    ),
    Case(
        "a folder named as an image",
        lambda p: (_whole(p, "a.png").mkdir(), _predict(p, p.cells()))[1],
        ("unreadable: 1", "a.png' is a folder"),
        0,
        CSV,
    ),
    Case("an empty folder", _no_entry, ("no image in", "expected files named *.jpg")),
    Case(
        "a name that is not there",
        lambda p: _predict(p, "gone.png"),
        ("there is no image or folder 'gone.png'", "Check the path"),
    ),
    Case(
        "a page that is not there",
        _page_that_is_not_there,
        ("no prediction: ", "there is no page 7 in 's.tif'", "1 to 2"),
        2,
        CSV,
    ),
    Case(
        "a row of a page that is not there", _row_of_a_page_that_is_not_there, ("there is no page 9 in 's.tif'",), stub=True
    ),
    Case("a page of a PNG", lambda p: _predict(p, f"{p.image('a.png')}#2"), ("there is no image or folder",)),
    Case("a named pipe in train", _pipe(_train), ("1 of 13 images", "pipe.png' cannot be opened", PIPE), stub=True),
    Case("a named pipe in predict", _pipe(lambda p: _predict(p, p.cells())), ("unreadable: 1", PIPE), 0, CSV),
    Case("a named pipe in the audit", _pipe(_audit), ("unreadable: 1", PIPE), 0),
    Case("a named pipe alone", _empty_pipe_alone, ("no prediction: ", PIPE), 2, CSV),
    Case("a named pipe as --config", _pipe_as("--config"), ("cannot read 'pipe'", PIPE), stub=True),
    Case(
        "a link to a device",
        _linked("zero.png", "/dev/zero", _audit),
        ("left out 1 link(s)", "zero.png", "--follow-links"),
        0,
    ),
    Case("a link to nothing", _linked("a.png", "gone.png", _train), ("1 of 13 images", "a.png' does not exist"), stub=True),
    Case(
        "a link to itself",
        _linked("a.png", "a.png", _audit),
        ("unreadable: 1", "a.png' cannot be opened", "symbolic links"),
        0,
    ),
    Case(
        "a link out of the folder",
        _linked("a.png", "../../away/far.png", _audit),
        ("left out 1 link(s) that lead out", "--follow-links", "12 images"),
        0,
    ),
    Case(
        "a link out of the folder that is followed",
        _linked("a.png", "../../away/far.png", lambda p: (*_audit(p), "--follow-links")),
        ("13 images",),
        0,
    ),
    Case(
        "nothing but links out of the folder",
        _only_links_out,
        ("every image of 'links' lies behind a link out of it", "--follow-links"),
    ),
    Case(
        "a row that is a link out of the folder", _row_out_of_the_folder, ("line 2", "a link out of it", "--follow-links")
    ),
    Case("folders that link to themselves", _folder_loop, ("12 images", "near-duplicates"), 0),
    Case("a folder that links to the whole disk", _link_to_everything, ("12 images", "left out 1 link(s)"), 0),
    Case("black, white and flat images", _flat, ("nearly black: 1", "nearly white: 1", "flat: 1", "black.png"), 0),
    Case("corrupt EXIF", _corrupt_exif, ("read with a warning: 1", "odd.jpg", "unreadable: 0"), 0),
)
