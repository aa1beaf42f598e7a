"""From listed files to images: pages of a TIFF, bits of a set, links that leave the folder; plain folders of images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from hemalens.cache import FeatureCache
from hemalens.datasets.base import Listing, Record, is_image_name
from hemalens.datasets.walking import is_below, links_are_followed, walk
from hemalens.errors import DatasetError, ImageError, one_line
from hemalens.files import default_cache_dir, sha256_text
from hemalens.imaging.depth import bits_of
from hemalens.imaging.formats import TIFF_SUFFIXES, not_read, note_not_read, suffix_of
from hemalens.imaging.headers import is_deep, n_pages
from hemalens.imaging.reading import deep_image
from hemalens.progress import track

FOLLOW = "Add --follow-links to read what they lead to."
_PAGE = re.compile(r"(.+)#([1-9][0-9]*)", re.DOTALL)
_DEPTHS = sha256_text("largest value and stated bits, 1")
"""The key of the cache for what `_depth` finds."""


def plain_images(path: Path) -> Listing:
    """The image at `path`, or every entry below the folder `path` with an image's name, sorted, without labels.

    `path` may name a page, as in "smear.tif#2". A folder with an image's name is listed too, and is an unreadable image.
    Raises `DatasetError` when there is no image, and for a single file of a kind that is not read.
    """
    file, page = split_page(path)
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"there is no image or folder {one_line(path)}",
            remedy="Check the path; a relative one starts at the current folder.",
        ) from error
    if not file.is_dir():
        kind = not_read(file)
        if kind is not None:
            raise DatasetError(f"{one_line(file)} is {kind[0]}, which is not read", remedy=kind[1])
        return prepared(Listing([_plain(file, page)]), file.parent)
    found = walk(file)
    folders = [folder for folder in found.folders if folder != file and is_image_name(folder)]
    files = [p for p in found.files if not any(folder in p.parents for folder in folders)]
    images = sorted([*(p for p in files if is_image_name(p)), *folders])
    notes = note_not_read(files)
    if not images:
        raise DatasetError(
            f"no image in {one_line(path)}",
            expected="files named *.jpg, *.png, *.bmp, *.tif or as another format that is read",
            got="; ".join([*notes, *_note_links(found.outside)]) or None,
        )
    return prepared(Listing([_plain(image, None) for image in images], notes, links=found.outside), file)


def _plain(path: Path, page: int | None) -> Record:
    return Record(path, source_label="", domain=path.parent.name, page=page)


def split_page(path: Path) -> tuple[Path, int | None]:
    """The file and the page of a name such as "smear.tif#2"; (path, None) for any other, and for a file so named."""
    match = _PAGE.fullmatch(path.name)
    if match is None or os.path.lexists(path) or suffix_of(match[1]) not in TIFF_SUFFIXES:
        return path, None
    return path.with_name(match[1]), int(match[2])


def prepared(listing: Listing, root: Path) -> Listing:
    """A listing of `root` with a record a page and the bits of each image, without images behind links out of `root`.

    Notes state what was left out, the pages, and the bits. Pages of a file without a group are one group.
    """
    kept, outside = _within(listing.records, root)
    outside += listing.links
    if outside and not kept:
        raise DatasetError(f"every image of {one_line(root)} lies behind a link out of it", remedy=FOLLOW)
    records = [page for record in kept for page in _pages(record, root)]
    notes = [*listing.notes, *_note_links(outside)]
    n_files = len({record.path for record in records if record.page is not None})
    if n_files:
        n_several = sum(record.page is not None for record in records)
        notes.append(f"{n_files} TIFF file(s) of several pages: {n_several} images, named as in 'file.tif#2'")
    records, depths = _with_bits(records)
    return replace(listing, records=records, notes=[*notes, *depths])


def _note_links(paths: Sequence[Path]) -> list[str]:
    """A note on links that were not followed, if there are any."""
    if not paths:
        return []
    first = one_line(paths[0])
    return [f"left out {len(paths)} link(s) that lead out of the folder, the first {first}. {FOLLOW}"]


def _within(records: Sequence[Record], root: Path) -> tuple[Sequence[Record], list[Path]]:
    """The records whose image and mask stay in the folder `root`, and the paths of the others."""
    if links_are_followed():
        return records, []
    top = root if root.is_dir() else root.parent
    lexical, real = os.path.abspath(top), os.path.realpath(top)

    @cache
    def folder_leaves(folder: str) -> bool:
        return is_below(folder, lexical) and not is_below(os.path.realpath(folder), real)

    def leaves(path: Path) -> bool:
        full = os.path.abspath(path)
        # images that were unpacked into the cache lie elsewhere without a link
        if not is_below(full, lexical):
            return False
        linked = os.path.islink(full) and not is_below(os.path.realpath(full), real)
        return linked or folder_leaves(os.path.dirname(full))

    kept, outside = [], []
    for record in records:
        gone = [path for path in (record.path, record.mask_path) if path is not None and leaves(path)]
        if gone:
            outside.append(gone[0])
        else:
            kept.append(record)
    return kept, outside


def _pages(record: Record, root: Path) -> list[Record]:
    n = 1 if record.page is not None else n_pages(record.path)
    if n == 1:
        return [record]
    # tables repeat the group, and leave the house: no path of this machine
    group = record.group or Path(os.path.relpath(record.path, root if root.is_dir() else root.parent)).as_posix()
    return [replace(record, page=page, group=group) for page in range(1, n + 1)]


def _with_bits(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records with their bits: by the header, otherwise by the largest value of all that are silent; and notes."""
    deep_files = {path for path in {record.path for record in records} if is_deep(path)}
    deep = {(r.path, r.page): r for r in records if r.path in deep_files}
    if not deep:
        return [replace(record, bits=8) for record in records], []
    depths = _depths(list(deep.values()))
    silent = [largest for largest, stated in depths.values() if not stated]
    common = bits_of(max(silent)) if silent else 16
    bits = {key: stated or common for key, (_, stated) in depths.items()}
    found = []
    if silent:
        n, most = len(silent), max(silent)
        found.append(f"{n} image(s) of more than 8 bits: largest value {most}, read as {common} bits")
    for stated, n in sorted(Counter(stated for _, stated in depths.values() if stated).items()):
        found.append(f"{n} image(s) of more than 8 bits state {stated} bits in their headers, and are read so")
    # an unreadable image has no depth; the error comes when it is read
    return [replace(r, bits=bits.get((r.path, r.page), 16 if r.path in deep_files else 8)) for r in records], found


_Key = tuple[Path, int | None]


def _depths(records: Sequence[Record]) -> dict[_Key, tuple[int, int]]:
    """(largest value, bits by the header or 0) of each readable image, kept in the cache by content."""
    contents: dict[_Key, str] = {}
    for record in records:
        try:
            contents[record.path, record.page] = replace(record, box=None).content_id()
        except OSError:
            continue
    store = FeatureCache(default_cache_dir())
    known = store.get(_DEPTHS, list(dict.fromkeys(contents.values())), np.uint32)
    todo = {content: key for key, content in contents.items() if content not in known}
    with track("reading images of more than 8 bits", len(todo)) as progress, ThreadPoolExecutor() as pool:
        fresh = {}
        for content, depth in zip(todo, pool.map(_depth, todo.values()), strict=True):
            progress(1)
            if depth is not None:
                fresh[content] = np.array(depth, np.uint32)
    if fresh:
        store.put(_DEPTHS, fresh)
    found = known | fresh
    return {key: (int(found[c][0]), int(found[c][1])) for key, c in contents.items() if c in found}


def _depth(key: _Key) -> tuple[int, int] | None:
    path, page = key
    try:
        image = deep_image(path, page=page)
    except ImageError:
        return None
    if image is None:
        return None
    return image.largest, image.header_bits or 0
