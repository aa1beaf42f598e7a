"""Adapt a bundle to a laboratory's unlabelled images: nucleus size, neighbours, class means, as far as they suit them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hemalens.adaptation.guards import FEW, FEWEST
from hemalens.adaptation.options import DEFAULTS, AdaptOptions
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.adaptation.unlabelled_steps import Adapted, adapted_to
from hemalens.bundle.adaptations import Unlabelled
from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import MODEL, Bundle, Manifest, open_bundle
from hemalens.bundle.export import check_parity
from hemalens.bundle.nucleus_size import extent_of
from hemalens.bundle.stages import cut_by
from hemalens.datasets import READERS, CellDataset, Record, open_dataset
from hemalens.datasets.images import plain_images
from hemalens.errors import BundleError, ImageError, InputError, one_line
from hemalens.progress import Say
from hemalens.runs.folders import RunOptions
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, reference_bytes
from hemalens.trust.review import ReviewThresholds


def adapt_unlabelled(
    bundle_path: Path,
    spec: str | CellDataset,
    *,
    run: RunOptions,
    options: AdaptOptions = DEFAULTS,
    say: Say = lambda text: None,
) -> Bundle:
    """Adapt the bundle at `bundle_path` to the images of `spec`, a dataset, its name or a folder, without reading a label.

    `options.settings` are those of `UnlabelledConfig`; pieces that do not suit the images are left out. `run.seed` draws
    the images that neighbours are kept of. Copies, unreadable images and those in which the bundle finds no cell are left
    out, and so are weights for further training. Raises `InputError` for fewer than 8 images, and `BundleError` for a
    bundle that is adapted already.
    """
    config = UnlabelledConfig.load(None, options.settings)
    base = open_bundle(bundle_path)
    refuse_lacking(base, config)
    given = _open_images(spec, base)
    for note in given.notes(base):
        say(note)
    if not base.manifest.nucleus_sizes:
        say("unlabelled adaptation was measured on bundles of robust --cell-image centred only: test the result")
    images = given.dataset.through(base.stages)
    adapted = adapted_to(base, images, config, run.seed)
    content = adapted.graph.SerializeToString()
    fine = adapted.fine_reference if base.manifest.fine else None
    parity, _ = check_parity(content, images.records, adapted.reference, fine=fine)
    manifest = _manifest(base, given, config, adapted).model_copy(update={"parity": parity, "review": _elsewhere(base)})
    return base.derive(run.out, manifest, content, seen_unlabelled=images.contents, files=_reference_files(base))


def _elsewhere(base: Bundle) -> ReviewThresholds | None:
    """The review thresholds of the base for a foreign laboratory, to which the bundle is adapted."""
    review = base.manifest.review
    if review is None or review.urgent_elsewhere is None:
        return review
    return review.model_copy(update={"urgent": review.urgent_elsewhere})


def _reference_files(base: Bundle) -> dict[str, bytes]:
    """The imitated laboratories of the base: on them the prediction sets still rest. Its held-out images are left out."""
    known = base.reference
    if known is None or known.imitated is None:
        return {}
    none = ReferenceStatistics(known.probabilities[:0], known.targets[:0], imitated=known.imitated)
    return {REFERENCE_FILE: reference_bytes(none)}


def refuse_lacking(base: Bundle, config: UnlabelledConfig) -> None:
    """Raise `BundleError` for a bundle that is adapted to images already, and for sizes asked of one without them."""
    if base.manifest.unlabelled is not None:
        raise BundleError(
            f"the bundle {one_line(base.path)} is adapted to unlabelled images already",
            remedy="Adapt the original bundle to all images.",
        )
    if config.size and (not base.manifest.nucleus_sizes or extent_of(base.stages) is None):
        raise BundleError(
            "the bundle was trained without nucleus sizes",
            expected="one trained with --cell-image centred",
            got=one_line(base.path),
            remedy="Drop --set size=true.",
        )


def _manifest(base: Bundle, given: _Images, config: UnlabelledConfig, adapted: Adapted) -> Manifest:
    """The bundle's manifest, updated."""
    manifest, chosen = base.manifest, adapted.chosen
    found = chosen.adjustment
    size = None if found is None else found.size
    parts = manifest.embedding_parts
    # the nucleus size is the last feature of the last part
    parts = (*parts[:-1], parts[-1] + 1) if parts and size else parts
    entry = Unlabelled(
        settings=config.model_dump(mode="json"),
        base_model_sha256=manifest.files[MODEL].sha256,
        n_images=len(given.dataset),
        n_unreadable=given.n_unreadable,
        fingerprint=given.dataset.fingerprint,
        pieces=() if found is None else found.pieces,
        left_out=chosen.left_out,
        changed=chosen.changed,
        typical_nucleus_px=None if size is None else float(np.exp(size.typical)),
        size_widening=None if size is None else size.widening,
        neighbours=None if found is None or found.neighbours is None else found.neighbours.n_nearest,
    )
    return manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": (*manifest.data, given.entry()),
            "unlabelled": entry,
            "embedding_size": manifest.embedding_size + (size is not None),
            "embedding_parts": parts,
            "versions": library_versions(),
        }
    )


@dataclass(frozen=True, slots=True)
class _Images:
    """The readable images, each once and without its label, and the number of those left out."""

    dataset: CellDataset
    n_unreadable: int
    n_copies: int
    n_empty: int

    def notes(self, base: Bundle) -> list[str]:
        """Remarks on the images, for the user."""
        n, name = len(self.dataset), self.dataset.name
        notes = [f"{name}: {note}" for note in self.dataset.notes]
        notes.append(f"{name}: {n} image(s), labels not read")
        if self.n_unreadable or self.n_copies:
            notes.append(f"{name}: left out {self.n_unreadable} unreadable image(s), {self.n_copies} copies")
        if self.n_empty:
            notes.append(f"{name}: left out {self.n_empty} image(s) without a white cell")
        if n < FEW:
            notes.append(f"{name}: {n} images are few; the result depends on which cells they show")
        learned = sum(content in base.seen for content in self.dataset.contents)
        if learned:
            notes.append(f"{name}: {learned} image(s) are training images of the bundle")
        return notes

    def entry(self) -> DataEntry:
        """The manifest's entry of the images."""
        left_out = {"unreadable": self.n_unreadable, "copies": self.n_copies, "no white cell": self.n_empty}
        entry = DataEntry.of(self.dataset, "unlabelled", left_out)
        return entry.model_copy(update={"class_counts": {"unlabelled": len(self.dataset)}})


def _open_images(spec: str | CellDataset, base: Bundle) -> _Images:
    """Open the images of a dataset or folder; raises `InputError` if fewer than 8 are readable and show a cell."""
    listed = _without_labels(spec.through(())) if isinstance(spec, CellDataset) else _listed(spec)
    once = {content: i for i, content in reversed(list(enumerate(listed.contents)))}
    distinct = [listed.records[i] for i in sorted(once.values())]
    shown = {id(record): _shows_a_cell(record, base) for record in distinct}
    n_unreadable = sum(cell is None for cell in shown.values())
    _check_number(listed.name, len(distinct) - n_unreadable, "different, readable ones")
    kept = tuple(record for record in distinct if shown[id(record)])
    _check_number(listed.name, len(kept), "images with a white cell")
    n_empty = len(distinct) - n_unreadable - len(kept)
    return _Images(replace(listed, records=kept), n_unreadable, len(listed) - len(distinct), n_empty)


def _check_number(name: str, n: int, what: str) -> None:
    if n < FEWEST:
        raise InputError(
            f"{one_line(name)} has too few images to adapt to", expected=f"at least {FEWEST} {what}", got=str(n)
        )


def _listed(spec: str) -> CellDataset:
    """The images of a dataset or folder, readable or not, without their labels."""
    reader, _, place = spec.partition(":")
    if reader == "folder" or (reader not in READERS and Path(spec).is_dir()):
        folder = Path(place if reader == "folder" else spec).expanduser()
        own = READERS["folder"]
        name = folder.resolve().name
        found = plain_images(folder)
        records = tuple(replace(record, domain=name) for record in found.records)
        return CellDataset(name, records, (), AS_LABELLED, own.licence, own.citation, notes=tuple(found.notes))
    # unlabelled images include cells that a label map would exclude
    return _without_labels(open_dataset(spec, labels=AS_LABELLED))


def _without_labels(dataset: CellDataset) -> CellDataset:
    bare = (replace(r, source_label="", cell_type=None, label=None, excluded=None) for r in dataset.records)
    return replace(dataset, records=tuple(bare), classes=())


def _shows_a_cell(record: Record, base: Bundle) -> bool | None:
    """Whether the bundle finds a white cell, or takes whole images; None where the image cannot be read."""
    try:
        image = record.read()
    except ImageError:
        return None
    return cut_by(base.stages, image).outcome != "no white cell"
