"""Base classes of datasets: `Record`, `CellDataset`, `Reader`, and helpers of readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.table_text import free_names, html_table
from hemalens.errors import DatasetError, one_line
from hemalens.files import sha256_file, sha256_text
from hemalens.imaging.formats import SUFFIXES, not_read, note_not_read
from hemalens.imaging.headers import is_deep
from hemalens.imaging.reading import Box, named, read_image
from hemalens.taxonomy import Excluded

if TYPE_CHECKING:
    import pandas

SYNTHETIC_MARKER = "synthetic.json"
"""File that marks a folder of synthetic images, in any layout."""
NO_LABEL = "no label filled in"
"""Why an image of a table without a label is left out."""
NO_TYPE = "no known cell type"
"""In the reason why images under a label that names no cell type are left out."""


class Stage(Protocol):
    """A preprocessing stage before the graph, such as cutting out the cell."""

    @property
    def digest(self) -> str:
        """A digest of the stage's settings, which changes whenever its result could."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform an image, uint8 (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One single-cell image: its path, its label and its group.

    `source_label` is the label that the dataset gives, `cell_type` a code of the taxonomy, `label` the class under the
    dataset's label map. Where `label` is None, `excluded` is the reason. `group` is the patient, smear or field, which no
    split divides, or None. `box` (x_min, y_min, x_max, y_max) in pixels cuts the cell out of a larger field. `before` are
    the stages that `read` applies. `page` counts the pages of a TIFF from 1; None is for a file of one page. `bits` are
    those that values of more than 8 bits are read as, 8 for an image without such values; None leaves it to the image
    alone. `source` is an index into the `sources` of its dataset. `annotations` are all labels of a cell that was annotated
    several times, the first annotation first. `part` is "train", "validation" or "test" in a set that is given in parts.
    `extra` are further columns of its row, (name, value) each, which predictions repeat. `imitation` is a laboratory that
    the image imitates: a stage of the image itself, in front of `before`, which other stages neither replace nor precede.
    """

    path: Path
    source_label: str
    domain: str
    group: str | None = None
    mask_path: Path | None = None
    box: Box | None = None
    cell_type: str | None = None
    label: str | None = None
    excluded: str | None = None
    before: tuple[Stage, ...] = ()
    source: int = 0
    annotations: tuple[str, ...] = ()
    part: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    page: int | None = None
    bits: int | None = None
    imitation: Stage | None = None

    @property
    def name(self) -> str:
        """The path, with the page of a TIFF of several, as in "smear.tif#2"."""
        return named(self.path, self.page)

    @property
    def file_name(self) -> str:
        """The last part of the name."""
        return named(Path(self.path.name), self.page)

    def read(self, notes: list[str] | None = None) -> NDArray[np.uint8]:
        """Read the image, RGB uint8 (H, W, 3), and apply its imitation and stages; raises `ImageError`.

        What the decoder warns of is appended to `notes`.
        """
        image = read_image(self.path, self.box, page=self.page, bits=self.bits, notes=notes)
        for stage in self._applied:
            image = stage(image)
        return image

    @property
    def _applied(self) -> tuple[Stage, ...]:
        return self.before if self.imitation is None else (self.imitation, *self.before)

    def unstaged(self) -> Record:
        """The same image without stages: as on disk, or as its imitated laboratory gives it."""
        return replace(self, before=()) if self.before else self

    def content_id(self) -> str:
        """A digest of the file's bytes, the page and the box: the same for copies under other names."""
        digest = sha256_file(self.path)
        page = [] if self.page is None else [f"page {self.page}"]
        box = [] if self.box is None else [str(self.box)]
        return sha256_text(digest, *page, *box) if page or box else digest

    def view_id(self) -> str:
        """A digest of the content, the bits and the stages: of what `read` returns."""
        content = self.content_id()
        # 8 bits stand for an image without larger values, which is read in one way alone
        if self.bits != 8 and (self.bits is not None or is_deep(self.path)):
            content = sha256_text(content, f"bits {self.bits}")
        return sha256_text(content, *(stage.digest for stage in self._applied)) if self._applied else content


@dataclass(frozen=True, slots=True)
class Source:
    """One of several sets in a dataset: its name, licence and citation, and whether its images are synthetic."""

    name: str
    licence: str
    citation: str
    synthetic: bool


@dataclass(frozen=True)
class CellDataset:
    """Records under one label map; `classes` are the labels present, in label order.

    `sources` are the sets that were concatenated, empty for a single one.
    """

    name: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    label_map: str
    licence: str
    citation: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"CellDataset({self.name!r}, {len(self)} images, classes={self.classes}, label_map={self.label_map!r})"

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """Each record's content digest; an unreadable file has a digest of its own."""
        return tuple(_content(record) for record in self.records)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the contents, labels and imitations, independent of file names and order."""
        pairs = zip(self.contents, self.records, strict=True)
        rows = sorted(
            f"{content}:{record.source_label}:{record.label}{_bits(record)}{_imitation(record)}"
            for content, record in pairs
        )
        return sha256_text(self.label_map, *rows)

    @cached_property
    def mask_fingerprint(self) -> str:
        """A digest of the masks and their images; missing masks count as none and are reported when read."""
        pairs = [(c, r.mask_path) for c, r in zip(self.contents, self.records, strict=True) if r.mask_path is not None]
        return sha256_text(*sorted(f"{content}:{sha256_file(mask)}" for content, mask in pairs if mask.is_file()))

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Index into `classes` of each record, (n,); -1 where the record has no label."""
        index = {label: i for i, label in enumerate(self.classes)}
        return np.array([-1 if r.label is None else index[r.label] for r in self.records], dtype=np.int64)

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Images of each class, in label order."""
        counts = Counter(record.label for record in self.records)
        return {label: counts[label] for label in self.classes}

    @cached_property
    def excluded_counts(self) -> dict[str, int]:
        """Number of excluded records by reason."""
        return dict(Counter(r.excluded for r in self.records if r.excluded is not None))

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each record: its path, its box, its labels, group, domain and mask, and further columns.

        A further column whose name is in use gets "source_" in front.
        """
        import pandas

        corners = ("x_min", "y_min", "x_max", "y_max")
        texts = ("source_label", "cell_type", "label", "excluded", "group", "domain")
        extra = list(dict.fromkeys(name for record in self.records for name, _ in record.extra))
        names = free_names(extra, ("path", *corners, *texts, "mask_path"))
        rows = [
            {"path": record.name, "mask_path": record.mask_path and str(record.mask_path)}
            | dict(zip(corners, record.box or (None,) * 4, strict=True))
            | {name: getattr(record, name) for name in texts}
            | {name: dict(record.extra).get(given) for name, given in zip(names, extra, strict=True)}
            for record in self.records
        ]
        frame = pandas.DataFrame(rows, columns=["path", *corners, *texts, "mask_path", *names])
        return frame.astype(dict.fromkeys(corners, "Int64"))

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        facts = {"images": len(self), "label map": self.label_map, "licence": self.licence, "citation": self.citation}
        return html_table(self.name, [*facts.items(), *((f"class {name}", n) for name, n in self.class_counts.items())])

    def subset(self, indices: Iterable[int]) -> CellDataset:
        """The records at `indices`, in that order, under the same classes."""
        return self._part(list(indices), self.classes)

    def _part(self, chosen: list[int], classes: tuple[str, ...]) -> CellDataset:
        part = replace(self, records=tuple(self.records[i] for i in chosen), classes=classes)
        # digests are passed on: folds of folds would otherwise read every file again
        part.__dict__["contents"] = tuple(self.contents[i] for i in chosen)
        return part

    def by_source(self) -> tuple[CellDataset, ...]:
        """Split into its sources, under the same classes; sources without an image here are left out."""
        if not self.sources:
            return (self,)
        parts = []
        for i, source in enumerate(self.sources):
            part = self.subset(j for j, record in enumerate(self.records) if record.source == i)
            if len(part):
                named = replace(part, **{f.name: getattr(source, f.name) for f in fields(source)}, sources=())
                named.__dict__["contents"] = part.contents
                parts.append(named)
        return tuple(parts)

    def through(self, stages: tuple[Stage, ...]) -> CellDataset:
        """The same images with these stages instead of their own."""
        if all(record.before == stages for record in self.records):
            return self
        staged = replace(self, records=tuple(replace(record, before=stages) for record in self.records))
        staged.__dict__["contents"] = self.contents
        return staged

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that its images are read with."""
        return self.records[0].before if self.records else ()

    def labelled(self) -> CellDataset:
        """Keep the records that have a label; raises `DatasetError` when there are none."""
        kept = [i for i, record in enumerate(self.records) if record.label is not None]
        if not kept:
            if set(self.excluded_counts) == {NO_LABEL}:
                raise DatasetError(
                    f"no image of {self.name} has a label",
                    expected="a label in each row",
                    remedy="Fill the column label in; of a table of predictions it does not count.",
                )
            reasons = "; ".join(f"{n} x {reason}" for reason, n in self.excluded_counts.items())
            raise DatasetError(
                f"{self.name} has no image with a label of {self.label_map}", got=reasons, remedy="Choose other --labels."
            )
        return self.subset(kept)

    def only_classes(self, classes: Sequence[str]) -> CellDataset:
        """Keep the records of `classes`, in this dataset's label order."""
        return self.under(tuple(c for c in self.classes if c in set(classes)))

    def under(self, classes: tuple[str, ...]) -> CellDataset:
        """Keep the records of `classes`, in the label order of `classes`, which may name classes without images."""
        return self._part([i for i, r in enumerate(self.records) if r.label in classes], classes)


def _content(record: Record) -> str:
    try:
        return record.content_id()
    except OSError:
        return f"unreadable:{record.name}:{record.box}"


def _bits(record: Record) -> str:
    return "" if record.bits in (None, 8) else f":{record.bits} bits"


def _imitation(record: Record) -> str:
    return "" if record.imitation is None else f":{record.imitation.digest}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reader found: records without labels, and notes on what it left out.

    `name`, `licence` and `citation` replace the reader's. `synthetic` marks drawn images in the layout of photographs.
    `links` are links to folders outside the data folder, which were not followed.
    """

    records: list[Record]
    notes: list[str] = field(default_factory=list)
    name: str | None = None
    synthetic: bool = False
    links: list[Path] = field(default_factory=list)
    licence: str | None = None
    citation: str | None = None


@dataclass(slots=True)
class Found:
    """What a reader has found so far; `ignored` holds paths outside the layout."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


Labels = Mapping[str, str | Excluded]
"""What each label of a dataset means: the code of a cell type, or why its images are left out."""


@dataclass(frozen=True, slots=True)
class Download:
    """A published file: its name, its address, and its publisher's MD5 (32 hexadecimal digits)."""

    name: str
    url: str
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A dataset that can be opened: what it is, what its labels mean, and `read`, which lists the records in a folder.

    `read` raises `DatasetError` for a folder of another layout. `labels` is None where labels are the user's own words,
    which are looked up among the names of cell types. `downloads` are its files by the side of their images in pixels.
    """

    name: str
    title: str
    licence: str
    citation: str
    layout: str
    read: Callable[[Path], Listing]
    labels: Labels | None = None
    size: str = ""
    synthetic: bool = False
    downloads: Mapping[int, Download] = field(default_factory=dict)

    @property
    def own_labels(self) -> bool:
        """Whether labels are the user's own words."""
        return self.labels is None


def wrong_layout(root: Path, title: str, layout: str) -> DatasetError:
    """The error of a missing folder, or one of another layout: what was expected and what was found."""
    if not root.exists():
        return DatasetError(f"there is no folder {one_line(root)}", expected=f"{title}: {layout}")
    if root.is_dir():
        names = sorted(entry.name for entry in root.iterdir())
        found = ", ".join(repr(name) for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    else:
        found = "a file"
    return DatasetError(f"{one_line(root)} is not laid out as {title}", expected=layout, got=found or "an empty folder")


def is_image_name(path: Path) -> bool:
    """Whether the file name has the suffix of an accepted image format."""
    return path.suffix.lower() in SUFFIXES


def is_image_file(path: Path, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Whether `path` has one of `suffixes`, and is neither hidden nor a folder.

    A named pipe or a broken link is listed too, and is an unreadable image.
    """
    # hidden files are what operating systems leave behind
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir()


def note_ignored(paths: Sequence[Path]) -> list[str]:
    """Notes on files and folders that were left out: images of kinds that are not read, and others outside the layout."""
    others = [path for path in paths if not_read(path) is None]
    if not others:
        return note_not_read(paths)
    shown = ", ".join(one_line(p.name) for p in others[:3]) + (" ..." if len(others) > 3 else "")
    outside = f"{len(others)} file(s) or folder(s) outside the expected layout were left out: {shown}"
    return [*note_not_read(paths), outside]
