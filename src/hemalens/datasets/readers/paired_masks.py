"""Sets whose parts keep images in `data` and the masks of some of them in `mask`: `<part>/{data,mask}/<class>/<image>`.

The rules of the pairing:

- A mask belongs to the image of its class that has its file name, else to the one of its stem: `a.png` to `a.jpg`.
- Images may lack a mask; the notes count them.
- Masks without an image are left out; the notes count them and name the first.
- Two masks for one image (one stem, two suffixes), or one mask for two images, are an error.
- Hidden files and other files are left out and noted; an unknown class folder is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hemalens.datasets.base import SYNTHETIC_MARKER, Found, Listing, Record, is_image_file, note_ignored, wrong_layout
from hemalens.datasets.parts import part_named
from hemalens.errors import DatasetError, near_matches, one_line

DATA, MASK = "data", "mask"


@dataclass(frozen=True, slots=True)
class PairedSet:
    """Description of one such set, with its parts and classes in order.

    `name_of` returns the name of a set from its resolved folder, `group_of` the group of an image or None.
    With `every_class`, a class without an image in a part is an error, otherwise a note.
    """

    title: str
    layout: str
    domain: str
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    name_of: Callable[[Path], str]
    group_of: Callable[[Path], str | None] = lambda path: None
    every_class: bool = False


@dataclass(slots=True)
class _Found(Found):
    orphans: list[Path] = field(default_factory=list)
    """Masks without an image."""


def read_paired(folder: Path, paired: PairedSet) -> Listing:
    """List the set in `folder`, its parts together, or the one part that `folder` is.

    The listing is named after the set, and after the part where parts are missing. Raises `DatasetError` for another
    layout, a part without an image, and masks that match several images.
    """
    present = [part for part in paired.parts if (folder / part).is_dir()]
    found = _Found()
    resolved = folder.resolve()
    if present:
        for part in present:
            _read_part(folder / part, paired, found)
        found.notes += [f"the folder {part!r} is missing" for part in paired.parts if part not in present]
        found.ignored += [path for path in sorted(folder.iterdir()) if path.name not in present]
        name = paired.name_of(resolved) + ("" if len(present) == len(paired.parts) else f" {' and '.join(present)}")
    elif (folder / DATA).is_dir():
        _read_part(folder, paired, found)
        name = f"{paired.name_of(resolved.parent)} {resolved.name}"
    else:
        raise wrong_layout(folder, paired.title, paired.layout)
    drawn = any((place / SYNTHETIC_MARKER).is_file() for place in (folder, resolved.parent))
    ignored = [path for path in found.ignored if path.name != SYNTHETIC_MARKER]
    notes = [*found.notes, *_mask_notes(found), *note_ignored(ignored)]
    return Listing(found.records, notes, name=name, synthetic=drawn)


def pair_masks(images: Sequence[Path], masks: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """The mask of each image that has one, and the masks that have no image, both in the order given.

    The images are those of one folder, the masks those of another. Raises `DatasetError` where a stem is ambiguous.
    """
    masks_of, images_of = _by_stem(masks), _by_stem(images)
    pairs: dict[Path, Path] = {}
    for image in images:
        candidates = masks_of.get(image.stem, [])
        rivals = images_of[image.stem]
        if {mask.name for mask in candidates} <= {rival.name for rival in rivals}:
            named = [mask for mask in candidates if mask.name == image.name]
        elif len(candidates) == len(rivals) == 1:
            named = candidates
        else:
            raise _unclear(rivals, candidates)
        pairs.update((image, mask) for mask in named)
    return pairs, [mask for mask in masks if mask.stem not in images_of]


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[path.stem].append(path)
    return dict(found)


def _unclear(images: list[Path], masks: list[Path]) -> DatasetError:
    if len(images) == 1:
        return DatasetError(
            f"the image {one_line(images[0])} has several masks",
            expected="at most one",
            got=_named(masks),
            remedy=f"Keep one of them in {one_line(masks[0].parent)}.",
        )
    stray = next(mask for mask in masks if mask.name not in {image.name for image in images})
    return DatasetError(
        f"the mask {one_line(stray)} may belong to several images",
        expected="a mask with its image's file name",
        got=_named(images),
        remedy="Give the mask the file name of its image, suffix and all.",
    )


def _read_part(part: Path, paired: PairedSet, found: _Found) -> None:
    data, mask = part / DATA, part / MASK
    if not data.is_dir():
        raise wrong_layout(part, paired.title, paired.layout)
    images = _files_by_class(data, paired, found)
    masks = _files_by_class(mask, paired, found) if mask.is_dir() else {}
    found.ignored += [path for path in sorted(part.iterdir()) if path not in (data, mask) or not path.is_dir()]
    _check_classes(data, images, paired, found)
    for label in paired.classes:
        pairs, orphans = pair_masks(images.get(label, []), masks.get(label, []))
        found.orphans += orphans
        found.records += [
            Record(
                path,
                label,
                domain=paired.domain,
                group=paired.group_of(path),
                mask_path=pairs.get(path),
                part=part_named(part.name),
            )
            for path in images.get(label, [])
        ]


def _files_by_class(folder: Path, paired: PairedSet, found: _Found) -> dict[str, list[Path]]:
    """The image files of each class folder that there is, sorted by name."""
    files: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not entry.is_dir():
            found.ignored.append(entry)
        elif entry.name not in paired.classes:
            raise DatasetError(
                f"the folder {one_line(entry)} is not one of {paired.title}",
                expected=", ".join(paired.classes),
                got=one_line(entry.name),
                remedy=f"Rename it or take it out: {near_matches(entry.name, paired.classes)}",
            )
        else:
            entries = sorted(entry.iterdir())
            files[entry.name] = [path for path in entries if is_image_file(path)]
            found.ignored += [path for path in entries if not is_image_file(path)]
    return files


def _check_classes(data: Path, images: dict[str, list[Path]], paired: PairedSet, found: _Found) -> None:
    """Raise for a part without an image; raise for, or note, a class without one."""
    if not any(images.values()):
        raise DatasetError(
            f"{one_line(data)} holds no image",
            expected=paired.layout,
            got=", ".join(f"an empty folder {label!r}" for label in images) or "no class folder",
            remedy="Unpack the set again, or give the folder of another part.",
        )
    if paired.every_class and not all(images.get(label) for label in paired.classes):
        counts = (
            f"{len(images[label])} in {label}" if label in images else f"no folder {label}" for label in paired.classes
        )
        raise DatasetError(
            f"{one_line(data)} lacks the images of a class",
            expected=f"images in {' and '.join(paired.classes)}",
            got=", ".join(counts),
            remedy="Unpack the set again, or give the folder of another part.",
        )
    for label in paired.classes:
        place = f"{data.parent.resolve().name}/{DATA}/{label}"
        if label not in images:
            found.notes.append(f"the folder {place!r} is missing")
        elif not images[label]:
            found.notes.append(f"the folder {place!r} holds no image")


def _mask_notes(found: _Found) -> list[str]:
    without = sum(record.mask_path is None for record in found.records)
    notes = [f"{without} of {len(found.records)} image(s) have no mask"] if without else []
    if found.orphans:
        first = one_line(found.orphans[0].name)
        notes.append(f"{len(found.orphans)} mask(s) have no image and were left out, the first {first}")
    return notes


def _named(paths: list[Path]) -> str:
    return " and ".join(one_line(path.name) for path in paths)
