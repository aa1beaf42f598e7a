"""Write the set of an imitated laboratory: images in class folders, and what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from hemalens.config import check_texts, checked
from hemalens.datasets import CellDataset
from hemalens.datasets.mixes import mix_named
from hemalens.datasets.open import check_spec, spec_path
from hemalens.datasets.readers.folder import IMITATION
from hemalens.errors import MAX_SEED, LabelError, public
from hemalens.files import PathLike, as_path, atomic_dir, read_sealed, write_sealed
from hemalens.outputs import claim_folder
from hemalens.progress import Say, track
from hemalens.runs.inputs import open_inputs, report_inputs

if TYPE_CHECKING:
    from hemalens.training.imitated_laboratory import ImitatedLaboratory

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitateOptions:
    """Which laboratory is imitated, and which cells it has.

    `laboratory` is the seed of the laboratory; `settings` (key=value) change the strengths of what is drawn, those of
    `LaboratoryConfig`. `mix` names the shares of the cell types, `n_images` is the number of images. `labels` is a label
    map; with `strict` a label that is no cell type is an error.
    """

    laboratory: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    mix: str = "balanced"
    n_images: Annotated[int, Field(ge=1)] = 200
    labels: str = "five_class"
    settings: tuple[str, ...] = ()
    strict: bool = False


DEFAULTS = ImitateOptions()


@public
def imitate(
    data: PathLike,
    *,
    out: PathLike,
    options: ImitateOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Draw cells of a dataset, show them as another laboratory would, and write them into `out`, atomically.

    `out` has PNG images, one folder a class, and `laboratory.json`, which is returned without its list of images: what was
    drawn, with units, and the source with its licence and digest. Open it as "folder:OUT". `seed` draws the cells. Raises
    `InputError` for an unknown mix and for fewer images than the mix needs.
    """
    from hemalens.training.imitated_laboratory import ImitatedLaboratory, imitated
    from hemalens.training.laboratory_augmentation import LaboratoryConfig

    options = checked(options, ImitateOptions)
    check_texts(options.settings, "the settings")
    spec, folder = check_spec(data, "the data"), as_path(out, "out")
    mix, strengths = mix_named(options.mix), LaboratoryConfig.load(overrides=options.settings)
    with claim_folder(folder, imitated_files, "an imitated laboratory", overwrite=overwrite, inputs=[spec_path(spec)]):
        given = open_inputs(spec, labels=options.labels, role="imitate", strict=options.strict)
        report_inputs(say, [given])
        _check_names(given.dataset.classes)
        dataset = imitated(given.dataset, options.laboratory, mix, options.n_images, seed, strengths=strengths)
        if len(dataset) < options.n_images:
            say(f"{len(dataset)} images, not {options.n_images}: the set has no further cells for the mix {mix}")
        facts = {
            "version": VERSION,
            "name": dataset.name,
            "mix": mix,
            "seed": seed,
            "n_images": len(dataset),
            "class_counts": {label: n for label, n in dataset.class_counts.items() if n},
            "source": given.dataset.name,
            "source_digest": given.dataset.fingerprint,
            "licence": dataset.licence,
            "citation": dataset.citation,
            "synthetic": dataset.synthetic,
            **_facts(ImitatedLaboratory.drawn(options.laboratory, strengths)),
        }
        with atomic_dir(folder, imitated_files) as new:
            images = _write(dataset, new)
            write_sealed(new / IMITATION, {**facts, "images": images})
    return facts


def imitated_files(folder: Path) -> list[str] | None:
    """The files in a folder that `imitate` has written there; None for a folder of something else."""
    known = read_sealed(folder / IMITATION)
    return None if known is None or "images" not in known else [IMITATION, *known["images"]]


def _facts(laboratory: ImitatedLaboratory) -> Mapping[str, Any]:
    from hemalens.training.imitated_laboratory import UNITS, VARIATION

    return {
        "laboratory": laboratory.parameters(),
        "laboratory_digest": laboratory.digest,
        "variation": VARIATION,
        "units": {**UNITS, "variation": "how far each image lies from `look`, as a share of the way to another laboratory"},
    }


def _write(dataset: CellDataset, folder: Path) -> dict[str, str]:
    """Write all images of a dataset; the name of each one's source by its own, relative to the folder."""
    sources = {}
    with track("imitating", len(dataset)) as progress:
        for number, record in enumerate(dataset.records):
            name = f"{record.label}/{record.label}_{number:05d}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            # level 1: twice as fast as the default and hardly larger
            Image.fromarray(np.ascontiguousarray(record.read())).save(folder / name, compress_level=1)
            sources[name] = record.file_name
            progress(1)
    return sources


def _check_names(classes: Sequence[str]) -> None:
    """Raise `LabelError` for a class that cannot be the name of a folder."""
    for name in classes:
        if Path(name).name != name or name.startswith(".") or "\x00" in name or len(name.encode()) > 200:
            raise LabelError(
                f"the class {name!r} cannot be the name of a folder",
                remedy="Rename the label, or choose a label map with --labels.",
            )
