"""BloodMNIST: MedMNIST's arrays, unpacked once into one image file each in the cache folder."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import Download, Labels, Listing, Reader, Record, wrong_layout
from hemalens.datasets.parts import part_named
from hemalens.datasets.walking import walk_files
from hemalens.errors import DatasetError, OutputError, near_matches, one_line
from hemalens.files import atomic_dir, default_cache_dir, read_json, sha256_file, sha256_text
from hemalens.progress import track

TITLE = "BloodMNIST"
SIDES_PX = {"bloodmnist.npz": 28, "bloodmnist_64.npz": 64, "bloodmnist_128.npz": 128, "bloodmnist_224.npz": 224}
PARTS = ("train", "val", "test")
KEYS = tuple(f"{part}_{kind}" for part in PARTS for kind in ("images", "labels"))
LABELS: Labels = {
    "basophil": "basophil",
    "eosinophil": "eosinophil",
    "erythroblast": "erythroblast",
    "immature granulocytes": "immature_granulocyte",
    "lymphocyte": "lymphocyte",
    "monocyte": "monocyte",
    "neutrophil": "neutrophil",
    "platelet": "platelet",
}
NAMES = tuple(LABELS)
"""The labels in the order of their numbers in the arrays."""
LAYOUT = (
    "bloodmnist.npz (28 px) or bloodmnist_<64, 128 or 224>.npz, or a folder that holds one of them; "
    "FILE.npz/train, /val or /test is one part"
)
MARKER = "unpacked.json"
FETCH = "Download the file again: hemalens data download bloodmnist."
ORIGIN = (
    "its images are Acevedo-20's, centre-cropped and resized: never train on one of the two sets and test on the other; "
    "no check finds these copies, because their bytes differ"
)


def _read(root: Path) -> Listing:
    npz, parts = _located(root)
    try:
        digest = sha256_file(npz)
    except OSError as error:
        raise _damaged(npz, error) from error
    notes = [ORIGIN]
    records: list[Record] = []
    for part in parts:
        folder = default_cache_dir() / "bloodmnist" / digest / part
        images = _unpacked(folder, SIDES_PX[npz.name])
        if images is None:
            if folder.exists():
                notes.append(f"the images unpacked before to {one_line(folder)} had changed and were unpacked again")
            _unpack(npz, part, folder)
            images = _images(folder)
        records += [Record(path, path.parent.name, domain="bloodmnist", part=part_named(part)) for path in images]
    return Listing(records, notes, name=npz.stem if len(parts) > 1 else f"{npz.stem} {parts[0]}")


def _located(root: Path) -> tuple[Path, tuple[str, ...]]:
    """The file and the parts that `root` names."""
    if root.is_dir():
        held = [name for name in SIDES_PX if (root / name).is_file()]
        if len(held) > 1:
            raise DatasetError(
                f"{one_line(root)} holds {TITLE} in several sizes",
                expected="one file",
                got=", ".join(held),
                remedy=f"Name the file, as in bloodmnist:{root / held[0]}",
            )
        if not held:
            raise wrong_layout(root, TITLE, LAYOUT)
        return root / held[0], PARTS
    whole = root.is_file()
    npz = root if whole else root.parent
    if not npz.is_file():
        raise wrong_layout(root, TITLE, LAYOUT)
    if npz.name not in SIDES_PX:
        raise DatasetError(
            f"{one_line(npz)} is not named as a file of {TITLE}",
            expected=", ".join(SIDES_PX),
            got=one_line(npz.name),
            remedy="Rename it to its published name, which identifies the set of MedMNIST.",
        )
    if not whole and root.name not in PARTS:
        raise DatasetError(
            f"{one_line(npz)} has no part {one_line(root.name)}",
            expected=", ".join(PARTS),
            remedy=near_matches(root.name, PARTS),
        )
    return npz, PARTS if whole else (root.name,)


# In the cache: <digest of the npz>/<part>/<label>/<number in the array>.png, and the marker, written last


def _images(folder: Path) -> list[Path]:
    return [path for path in walk_files(folder) if path != folder / MARKER]


def _unpacked(folder: Path, side_px: int) -> list[Path] | None:
    """The unpacked images of a part; None where they are missing or changed."""
    try:
        marker = read_json(folder / MARKER)
        images = _images(folder)
        digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in images}
    except (OSError, ValueError):
        return None
    return images if marker == _marker(digests, side_px) else None


def _marker(digests: dict[str, str], side_px: int) -> dict[str, Any]:
    """The marker's content: number, size and digest of the files, from their digests by name."""
    rows = sorted(f"{name}:{digest}" for name, digest in digests.items())
    return {"n_images": len(rows), "side_px": side_px, "digest": sha256_text(*rows)}


def _unpack(npz: Path, part: str, folder: Path) -> None:
    images, labels = _arrays(npz, part)
    try:
        with atomic_dir(folder) as temporary, track(f"unpacking {npz.stem} {part}", len(images)) as progress:
            for label in LABELS:
                (temporary / label).mkdir()
            digests: dict[str, str] = {}
            for i, (image, label_index) in enumerate(zip(images, labels, strict=True)):
                name, content = f"{NAMES[label_index]}/{i:06d}.png", _png(image)
                (temporary / name).write_bytes(content)
                digests[name] = hashlib.sha256(content).hexdigest()
                progress(1)
            marker = json.dumps(_marker(digests, SIDES_PX[npz.name]))
            (temporary / MARKER).write_text(marker, encoding="utf-8")
    except OutputError as error:
        raise OutputError(
            f"cannot unpack {one_line(npz)} into the cache {one_line(folder)}",
            expected="a writable place with room for the images",
            got=str(error.__cause__ or error),
            remedy="Free space, or name another folder with HEMALENS_CACHE.",
        ) from error


def _png(image: NDArray[np.uint8]) -> bytes:
    """A PNG of RGB (H, W, 3), not compressed (ISO/IEC 15948).

    Images are identified by their file's bytes. Compression would make these differ between zlib versions.
    """
    height, width, _ = image.shape
    # each line begins with its filter, 0 for none
    raw = np.pad(image.reshape(height, width * 3), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", _stored(raw)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(raw: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4)."""
    stream = b"\x78\x01"
    for start in range(0, len(raw), 0xFFFF):
        block = raw[start : start + 0xFFFF]
        is_last = start + len(block) == len(raw)
        stream += struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF) + block
    return stream + struct.pack(">I", zlib.adler32(raw))


# The arrays


def _arrays(npz: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Images (n, side, side, 3) and indices into `NAMES` (n,) of a part, held in memory: 1.8 GB for train at 224 px."""
    try:
        # numpy would leave a damaged file open
        with open(npz, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DatasetError(
                    f"{one_line(npz)} is not a file of {TITLE}", expected="an npz", got="one array", remedy=FETCH
                )
            missing = [key for key in KEYS if key not in loaded.files]
            if missing:
                raise DatasetError(
                    f"{one_line(npz)} is not a file of {TITLE}",
                    expected=f"the arrays {', '.join(KEYS)}",
                    got=f"no {', '.join(missing)}",
                    remedy=FETCH,
                )
            images, labels = loaded[f"{part}_images"], loaded[f"{part}_labels"]
    except DatasetError:
        raise
    # a zip's and an array's damaged bytes raise BadZipFile, zlib.error, EOFError, MemoryError and more
    except Exception as error:
        raise _damaged(npz, error) from error
    _check_images(npz, part, images)
    return images, _checked_labels(npz, part, labels, len(images))


def _check_images(npz: Path, part: str, images: Any) -> None:
    side = SIDES_PX[npz.name]
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) != 4 or shape[0] == 0 or shape[1:] != (side, side, 3) or images.dtype != np.uint8:
        raise DatasetError(
            f"the array {part}_images of {one_line(npz)} holds no images of {TITLE}",
            expected=f"uint8 of shape (n, {side}, {side}, 3)",
            got=_described(images),
            remedy="Give the file its published name, which states the size, or download it again.",
        )


def _checked_labels(npz: Path, part: str, labels: Any, n_images: int) -> NDArray[np.intp]:
    what = f"the array {part}_labels of {one_line(npz)}"
    if getattr(labels, "shape", ()) != (n_images, 1) or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"{what} does not label its images",
            expected=f"whole numbers of shape ({n_images}, 1)",
            got=_described(labels),
            remedy=FETCH,
        )
    values = labels[:, 0]
    outside = np.unique(values[(values < 0) | (values >= len(NAMES))])
    if len(outside):
        raise DatasetError(
            f"{what} has labels that {TITLE} does not have",
            expected=f"0 ({NAMES[0]}) to {len(NAMES) - 1} ({NAMES[-1]})",
            got=", ".join(str(value) for value in outside[:3]) + (" ..." if len(outside) > 3 else ""),
            remedy=FETCH,
        )
    return np.asarray(values, dtype=np.intp)


def _described(array: Any) -> str:
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "no array"


def _damaged(npz: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{one_line(npz)} cannot be read as an npz",
        expected="the file as published",
        got=str(error) or type(error).__name__,
        remedy=FETCH,
    )


def _download(name: str, md5: str) -> Download:
    return Download(name, f"https://zenodo.org/records/10519652/files/{name}?download=1", md5)


READER = Reader(
    name="bloodmnist",
    title=TITLE,
    size="17,092 images",
    licence="CC BY 4.0",
    citation="Yang et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification, "
    "Scientific Data 10 (2023); images of Acevedo et al., Data in Brief 30 (2020)",
    layout=LAYOUT,
    labels=LABELS,
    read=_read,
    # addresses and checksums as the package medmnist 3.0.2 states them (info.py)
    downloads={
        28: _download("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
        64: _download("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
        128: _download("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
        224: _download("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
    },
)
