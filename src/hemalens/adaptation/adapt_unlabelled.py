"""Adapt a bundle to a laboratory's unlabelled images: batch norm, nucleus size, class bias, neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hemalens.adaptation.encoders import Embedders, open_embedders
from hemalens.adaptation.options import DEFAULTS, AdaptOptions
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.adaptation.unlabelled_steps import Adapted, adapted_to
from hemalens.bundle.adaptations import Unlabelled
from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    MODEL,
    Bundle,
    Manifest,
    open_bundle,
)
from hemalens.bundle.export import check_parity
from hemalens.bundle.nucleus_size import extent_of
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import READERS, CellDataset, Record, open_dataset
from hemalens.datasets.images import plain_images
from hemalens.errors import BundleError, ConfigError, ImageError, InputError, one_line
from hemalens.graphs.batch_norm import has_batch_norm, pixels_of
from hemalens.progress import Say
from hemalens.runs.folders import RunOptions
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, reference_bytes

FEWEST = 8
"""Fewest images to adapt to."""
FEW = 32
"""Below this number of images the result depends on which cells they show; neighbours need as many."""


def adapt_unlabelled(
    bundle_path: Path,
    spec: str | CellDataset,
    *,
    run: RunOptions,
    options: AdaptOptions = DEFAULTS,
    say: Say = lambda text: None,
) -> Bundle:
    """Adapt the bundle at `bundle_path` to the images of `spec`, a dataset, its name or a folder, without reading a label.

    `options.settings` are those of `UnlabelledConfig`; `options.beside` switches `neighbours` on, with further encoders'
    embeddings. `run.seed` draws the batches. Copies and unreadable images are left out, and so are weights for further
    training. Raises `InputError` for fewer than 8 images, 32 with neighbours, and `BundleError` for a step that the bundle
    does not support.
    """
    config = unlabelled_config(options)
    base = open_bundle(bundle_path)
    refuse_lacking(base, config)
    embedders = open_embedders(base, options.beside, FewShotConfig())
    given = _open_images(spec, FEW if config.neighbours else FEWEST)
    for note in given.notes(base):
        say(note)
    if config.size and (reason := _without_sizes(base)):
        say(f"nucleus size is not used: {reason}")
        config = config.model_copy(update={"size": False})
    if not base.manifest.nucleus_sizes:
        say("unlabelled adaptation was measured on bundles of robust --cell-image centred only: test the result")
    images = given.dataset.through(base.stages)
    adapted = adapted_to(base, images, config, run.seed, beside=[one.encoder for one in embedders.each[1:]])
    content = adapted.graph.SerializeToString()
    fine = adapted.fine_reference if base.manifest.fine else None
    parity, _ = check_parity(content, images.records, adapted.reference, fine=fine)
    manifest = _manifest(embedders, given, config, adapted).model_copy(update={"parity": parity})
    return base.derive(
        run.out,
        manifest,
        content,
        others=embedders.bundles,
        seen_unlabelled=images.contents,
        files=_reference_files(base),
    )


def _reference_files(base: Bundle) -> dict[str, bytes]:
    """The imitated laboratories of the base: on them the prediction sets still rest. Its held-out images are left out."""
    known = base.reference
    if known is None or known.imitated is None:
        return {}
    none = ReferenceStatistics(known.probabilities[:0], known.targets[:0], imitated=known.imitated)
    return {REFERENCE_FILE: reference_bytes(none)}


def unlabelled_config(options: AdaptOptions) -> UnlabelledConfig:
    """The steps of the options; further encoders switch `neighbours` on."""
    config = UnlabelledConfig.load(None, [*(["neighbours=true"] if options.beside else []), *options.settings])
    if options.beside and not config.neighbours:
        raise ConfigError("--beside needs neighbours=true with unlabelled images")
    return config


def refuse_lacking(base: Bundle, config: UnlabelledConfig) -> None:
    """Raise `BundleError` for a step that the bundle does not support, and for a bundle that has neighbours already."""
    if base.manifest.unlabelled is not None and base.manifest.unlabelled.neighbours:
        raise BundleError(
            f"the bundle {one_line(base.path)} has neighbours from an earlier adaptation",
            remedy="Adapt the original bundle to all images.",
        )
    if config.batch_norm and not (has_batch_norm(base.graph) and pixels_of(base.graph)):
        raise BundleError(
            f"the bundle {one_line(base.path)} has no batch norm of its own",
            expected="a network with batch norm in 32 bits",
            remedy="Leave the step out: --set batch_norm=false.",
        )
    if config.size and "size" in config.model_fields_set and (reason := _without_sizes(base)):
        raise BundleError(
            reason,
            expected="one trained with --cell-image centred and not yet adapted with nucleus sizes",
            got=one_line(base.path),
            remedy="Leave the step out: --set size=false.",
        )


def _without_sizes(base: Bundle) -> str:
    """Why the step `size` does not apply to a bundle; empty if it does."""
    if base.manifest.unlabelled is not None and base.manifest.unlabelled.typical_nucleus_px is not None:
        return "the bundle uses nucleus sizes already"
    known = base.manifest.nucleus_sizes and extent_of(base.stages) is not None
    return "" if known else "the bundle was trained without nucleus sizes"


def _manifest(embedders: Embedders, given: _Images, config: UnlabelledConfig, adapted: Adapted) -> Manifest:
    """The bundle's manifest, updated."""
    base, adjustment = embedders.bundles[0].manifest, adapted.adjustment
    first, *others = embedders.each
    # the nucleus size is the last feature of the bundle's own embedding
    own = (*first.widths[:-1], first.widths[-1] + bool(adjustment and adjustment.sizes))
    parts = (*own, *(width for one in others for width in one.widths))
    return base.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": (*(entry for bundle in embedders.bundles for entry in bundle.manifest.data), given.entry()),
            "unlabelled": _adaptation(embedders, given, config, adapted),
            "temperature": base.temperature / adjustment.softening if adjustment else base.temperature,
            "embedding_size": sum(parts),
            "embedding_parts": parts if len(parts) > 1 else (),
            "versions": library_versions(),
        }
    )


def _adaptation(embedders: Embedders, given: _Images, config: UnlabelledConfig, adapted: Adapted) -> Unlabelled:
    """The manifest's entry of this adaptation; sizes and bias of an earlier one are carried over."""
    base, adjustment = embedders.bundles[0].manifest, adapted.adjustment
    before = base.unlabelled
    typical, widening = (before.typical_nucleus_px, before.size_widening) if before else (None, None)
    bias = np.zeros(len(base.labels)) if before is None or before.bias is None else np.array(before.bias)
    if adjustment is not None:
        if adjustment.sizes:
            typical, widening = float(np.exp(adjustment.typical)), adjustment.widening
        bias = adjustment.bias + bias * adjustment.softening
    return Unlabelled(
        settings=config.model_dump(mode="json"),
        base_model_sha256=base.files[MODEL].sha256,
        n_images=len(given.dataset),
        n_unreadable=given.n_unreadable,
        fingerprint=given.dataset.fingerprint,
        typical_nucleus_px=typical,
        size_widening=widening,
        bias=tuple(bias.tolist()) if bias.any() else None,
        neighbours=adapted.neighbours.n_nearest if adapted.neighbours else None,
        beside=embedders.beside,
    )


@dataclass(frozen=True, slots=True)
class _Images:
    """The readable images, each once and without its label, and the number of those left out."""

    dataset: CellDataset
    n_unreadable: int
    n_copies: int

    def notes(self, base: Bundle) -> list[str]:
        """Remarks on the images, for the user."""
        n, name = len(self.dataset), self.dataset.name
        notes = [f"{name}: {note}" for note in self.dataset.notes]
        notes.append(f"{name}: {n} image(s), labels not read")
        if self.n_unreadable or self.n_copies:
            notes.append(f"{name}: left out {self.n_unreadable} unreadable image(s), {self.n_copies} copies")
        if n < FEW:
            notes.append(f"{name}: {n} images are few; the result depends on which cells they show")
        learned = sum(content in base.seen for content in self.dataset.contents)
        if learned:
            notes.append(f"{name}: {learned} image(s) are training images of the bundle")
        return notes

    def entry(self) -> DataEntry:
        """The manifest's entry of the images."""
        entry = DataEntry.of(self.dataset, "unlabelled", {"unreadable": self.n_unreadable, "copies": self.n_copies})
        return entry.model_copy(update={"class_counts": {"unlabelled": len(self.dataset)}})


def _open_images(spec: str | CellDataset, fewest: int) -> _Images:
    """Open the images of a dataset or folder; raises `InputError` if fewer than `fewest` are readable."""
    listed = _without_labels(spec.through(())) if isinstance(spec, CellDataset) else _listed(spec)
    once = {content: i for i, content in reversed(list(enumerate(listed.contents)))}
    distinct = [listed.records[i] for i in sorted(once.values())]
    readable = [record for record in distinct if _can_be_read(record)]
    if len(readable) < fewest:
        raise InputError(
            f"{one_line(listed.name)} has too few images to adapt to",
            expected=f"at least {fewest} different, readable ones",
            got=str(len(readable)),
        )
    dataset = replace(listed, records=tuple(readable))
    return _Images(dataset, len(distinct) - len(readable), len(listed) - len(distinct))


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


def _can_be_read(record: Record) -> bool:
    try:
        record.read()
    except ImageError:
        return False
    return True
