"""Adapt a bundle to a new laboratory with images without labels: batch norm, embedding, head, class shares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.adaptation.encoders import Embedders, open_embedders
from hemalens.adaptation.few_labels import adapt
from hemalens.adaptation.logit_adjustment import Evidence
from hemalens.adaptation.unlabelled import Adapted, adapted_to
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    FILES,
    MODEL,
    STATISTICS,
    Bundle,
    Manifest,
    Unlabelled,
    array_bytes,
    open_bundle,
)
from hemalens.bundle.export import check_parity
from hemalens.bundle.nucleus_size import extent_of
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import READERS, CellDataset, Record, open_dataset
from hemalens.errors import BundleError, ConfigError, ImageError, InputError, one_line
from hemalens.files import claim_folder
from hemalens.graphs.batch_norm import has_batch_norm, pixels_of
from hemalens.inference.predictor import list_images
from hemalens.progress import Say
from hemalens.taxonomy import AS_LABELLED

FEWEST = 8
"""Statistics of fewer images are those of the cells that happen to be there."""
FEW = 32
"""Below this they still depend much on which cells are there, and it is said."""


def adapt_unlabelled(
    bundle_path: Path,
    spec: str,
    *,
    out: Path,
    beside: Sequence[str | Path] = (),
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out` like the one at `bundle_path`, adapted to the images of `spec` without looking at a label.

    `spec` is a dataset's name or a folder; of a folder, every image below it counts. `settings` are settings key=value of
    `UnlabelledConfig`; `seed` draws the batches. Copies and unreadable images are left out and counted. The new bundle
    counts the images as seen without labels; weights for further training are not carried along. `beside` names further
    bundles, or the ImageNet network (`IMAGENET`), whose embeddings help to find neighbours, which then are a piece by
    default. Raises `InputError` for fewer than 8 images, 32 with neighbours, or answers that teach fewer than two classes,
    and `BundleError` for a piece that the bundle lacks what it needs for.
    """
    config = _asked(settings, beside)
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    refuse_lacking(base, config)
    embedders = open_embedders(base, beside, FewShotConfig())
    if config.size and (lacking := _without_sizes(base)):
        say(f"{lacking}: what the nuclei's size says is left out")
        config = config.model_copy(update={"size": False})
    given = _opened(spec, FEW if config.neighbours else FEWEST)
    for note in given.notes(base):
        say(note)
    images = given.dataset.through(base.stages)
    adapted = adapted_to(base, images, config, seed, beside=[one.encoder for one in embedders.each[1:]])
    content = adapted.graph.SerializeToString()
    parity, _ = check_parity(
        content, images.records, adapted.reference, fine=adapted.fine_reference if base.manifest.fine else None
    )
    manifest = _manifest(embedders, given, config, adapted).model_copy(update={"parity": parity})
    return base.derive(
        out,
        manifest,
        content,
        others=embedders.bundles,
        seen_unlabelled=images.contents,
        files=_statistics(embedders, adapted),
    )


def _asked(settings: Sequence[str], beside: Sequence[str | Path]) -> UnlabelledConfig:
    """The pieces that were asked for; what stands beside is for the neighbours."""
    config = UnlabelledConfig.load(None, [*(["neighbours=true"] if beside else []), *settings])
    if beside and not config.neighbours:
        raise ConfigError("--beside helps to find neighbours, which neighbours=false leaves out")
    return config


def _manifest(embedders: Embedders, given: _Given, config: UnlabelledConfig, adapted: Adapted) -> Manifest:
    """The base's manifest, changed in what adapting changes."""
    base, taught, evidence = embedders.bundles[0], adapted.taught, adapted.evidence
    temperature = base.manifest.temperature if taught is None else taught.temperature
    first, *others = embedders.each
    # the size of the nucleus stands behind the base's own embedding
    own = (*first.widths[:-1], first.widths[-1] + bool(evidence and evidence.sizes))
    parts = (*own, *(width for one in others for width in one.widths))
    return base.manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": (*(entry for bundle in embedders.bundles for entry in bundle.manifest.data), given.entry()),
            "unlabelled": _settled(embedders, given, config, adapted),
            "temperature": temperature / evidence.softening if evidence else temperature,
            "embedding_size": sum(parts),
            "embedding_parts": parts if len(parts) > 1 else (),
            "versions": library_versions(),
        }
    )


def _statistics(embedders: Embedders, adapted: Adapted) -> dict[str, bytes]:
    """The embedding statistics of the base, where head and embedding are its own."""
    base = embedders.bundles[0]
    if adapted.taught is not None or embedders.beside or base.statistics is None:
        return {}
    expected, evidence = base.statistics, adapted.evidence
    if evidence and evidence.sizes:
        expected = np.hstack([expected, evidence.statistics()])
    return {STATISTICS: array_bytes(expected)}


def adapt_to_both(
    bundle_path: Path,
    unlabelled_spec: str,
    support_spec: str,
    *,
    out: Path,
    beside: Sequence[str | Path] = (),
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
    **support: Any,
) -> Bundle:
    """Adapt to images without labels first, then learn the classifier anew from the labelled cells of `support_spec`.

    `beside` stands beside from the first step on. `support` are further arguments of `adapt`. Raises `ConfigError` for a
    prior and for pseudo-labels: a new classifier has no use for them.
    """
    config = _asked(settings, beside)
    if config.pseudo_labels:
        raise ConfigError(
            "the labelled cells give a new classifier: pseudo-labels have nothing to teach", expected="pseudo_labels=false"
        )
    if config.prior:
        raise ConfigError("the labelled cells give a new classifier: a prior has nothing to act on", expected="prior=false")
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="hemalens.adapt.") as folder:
        between = Path(folder) / "bundle"
        asked: dict[str, Any] = {"beside": beside, "settings": settings, "seed": seed, "say": say}
        adapt_unlabelled(bundle_path, unlabelled_spec, out=between, **asked)
        return adapt(between, support_spec, out=out, overwrite=overwrite, say=say, **support)


def refuse_lacking(base: Bundle, config: UnlabelledConfig) -> None:
    """Raise `BundleError` where a piece asks for what the bundle does not have, or images count that others came before."""
    if base.manifest.unlabelled is not None and base.manifest.unlabelled.neighbours:
        raise BundleError(
            f"the bundle {one_line(base.path)} leans on the images that it was adapted to",
            remedy="Adapt the bundle from before to all images.",
        )
    if config.batch_norm and not (has_batch_norm(base.graph) and pixels_of(base.graph)):
        raise BundleError(
            f"the bundle {one_line(base.path)} has no batch norm of its own",
            expected="a 32-bit network with batch norm, trained since bundles keep it apart",
            remedy="Train it again, or use another piece: --set batch_norm=false --set standardise=true.",
        )
    if config.standardise and base.statistics is None:
        raise BundleError(
            f"the bundle {one_line(base.path)} does not say what its head expects of an embedding",
            expected=f"{STATISTICS}, which training writes and a new classifier of a few cells takes out",
            remedy="Train it again, or say --set standardise=false.",
        )
    if config.size and "size" in config.model_fields_set and (lacking := _without_sizes(base)):
        raise BundleError(
            lacking,
            expected="one trained with --cell-image centred, size not counted yet",
            got=one_line(base.path),
            remedy="Leave size out.",
        )


def _settled(embedders: Embedders, given: _Given, config: UnlabelledConfig, adapted: Adapted) -> Unlabelled:
    """What the manifest says of how the bundle was adapted."""
    base, taught = embedders.bundles[0], adapted.taught
    return Unlabelled(
        settings=config.model_dump(mode="json"),
        base_model_sha256=base.manifest.files[MODEL].sha256,
        n_images=len(given.dataset),
        n_unreadable=given.n_unreadable,
        fingerprint=given.dataset.fingerprint,
        prior=None if adapted.prior is None else tuple(adapted.prior.tolist()),
        taught=None if taught is None else dict(zip(base.manifest.labels, taught.counts, strict=True)),
        neighbours=adapted.neighbours.n_nearest if adapted.neighbours else None,
        beside=embedders.beside,
        **_told_of(adapted.evidence, base.manifest.unlabelled),
    )


def _told_of(evidence: Evidence | None, before: Unlabelled | None) -> dict[str, Any]:
    """What a manifest says of the evidence in a graph, that of an adaptation before included."""
    typical, widening = (before.typical_nucleus_px, before.size_widening) if before else (None, None)
    bias = None if before is None or before.bias is None else np.array(before.bias)
    if evidence is not None:
        if evidence.sizes:
            typical, widening = float(np.exp(evidence.typical)), evidence.widening
        bias = evidence.bias + (0 if bias is None else bias * evidence.softening)
    told = None if bias is None or not bias.any() else tuple(bias.tolist())
    return {"typical_nucleus_px": typical, "size_widening": widening, "bias": told}


def _without_sizes(base: Bundle) -> str:
    """Why the size of nuclei cannot count for a bundle, in words; empty where it can."""
    if base.manifest.unlabelled is not None and base.manifest.unlabelled.typical_nucleus_px is not None:
        return "the bundle counts the nuclei's size already, beside those of another set"
    known = base.manifest.nucleus_sizes and extent_of(base.stages) is not None
    return "" if known else "the bundle does not know how large the nuclei of its types are"


# ---------------------------------------------------------------------------------------------------------- the images


@dataclass(frozen=True, slots=True)
class _Given:
    """Readable images, each once, with neither label nor source label; what was left out; the licence and its like."""

    dataset: CellDataset
    n_unreadable: int
    n_copies: int

    def notes(self, base: Bundle) -> list[str]:
        """What whoever adapts should know of the images."""
        n, name = len(self.dataset), self.dataset.name
        notes = [f"{name}: {n} image(s), labels not read"]
        if self.n_unreadable or self.n_copies:
            notes.append(f"{name}: left out {self.n_unreadable} unreadable image(s), {self.n_copies} spare copies")
        if n < FEW:
            notes.append(f"{name}: {n} images are few; the result depends on which cells happen to be there")
        learned = sum(content in base.seen for content in self.dataset.contents)
        if learned:
            notes.append(f"{name}: {learned} image(s) were in the bundle's training data")
        return notes

    def entry(self) -> DataEntry:
        """What the manifest says of them."""
        entry = DataEntry.of(self.dataset, "unlabelled", {"unreadable": self.n_unreadable, "copies": self.n_copies})
        return entry.model_copy(update={"class_counts": {"unlabelled": len(self.dataset)}})


def _opened(spec: str, fewest: int) -> _Given:
    """The images of a dataset or folder; raises `InputError` where fewer than `fewest` can be read."""
    reader, _, place = spec.partition(":")
    if reader == "folder" or (reader not in READERS and Path(spec).is_dir()):
        folder = Path(place if reader == "folder" else spec).expanduser()
        own = READERS["folder"]
        name = folder.resolve().name
        records = tuple(Record(path, "", domain=name) for path in list_images(folder))
        listed = CellDataset(name, records, (), AS_LABELLED, own.licence, own.citation)
    else:
        # cells that a label map leaves out are among them: nobody has said what they are
        listed = open_dataset(spec, labels=AS_LABELLED)
        bare = (replace(r, source_label="", cell_type=None, label=None, excluded=None) for r in listed.records)
        listed = replace(listed, records=tuple(bare), classes=())
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
    return _Given(dataset, len(distinct) - len(readable), len(listed) - len(distinct))


def _can_be_read(record: Record) -> bool:
    try:
        record.read()
    except ImageError:
        return False
    return True
