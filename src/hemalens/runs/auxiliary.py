"""Auxiliary data of a method, by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hemalens.bundle.stages import Stage
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import Unreadable
from hemalens.errors import ConfigError, InputError, LabelError, near_matches
from hemalens.files import PathLike
from hemalens.methods import Method
from hemalens.methods.base import AuxiliaryRole
from hemalens.runs.inputs import Inputs, open_inputs
from hemalens.taxonomy import AS_LABELLED


def open_auxiliary(
    methods: Sequence[Method],
    specs: Sequence[tuple[str, PathLike]],
    *,
    labels: str,
    unreadable: Unreadable = "refuse",
    stages: tuple[Stage, ...] = (),
) -> dict[str, Inputs]:
    """Open the sets in `specs`, (role, name), by role; several in one role are one set.

    A set whose labels are learned is read under `labels` where that map has any of them; every other set, such as tissue,
    is read as labelled. Raises `InputError` for a role that no method has, or that a method lacks.
    """
    known = _roles_of(methods)
    for role, _ in specs:
        if role not in known:
            named = ", ".join(method.name for method in methods)
            remedy = near_matches(role, known) if known else "Leave --aux out."
            raise InputError(f"{named}: no use for auxiliary data of the role {role!r}", remedy=remedy)
    given = dict.fromkeys(role for role, _ in specs)
    for method in methods:
        for needed in method.roles:
            if needed.required and needed.name not in given:
                raise InputError(f"{method.name} needs {needed.what}", remedy=f"Add --aux {needed.name}=SPEC.")
    opened = {}
    for name in given:
        named_sets = [spec for other, spec in specs if other == name]
        chosen = _labels_for(named_sets, labels) if known[name].labelled else AS_LABELLED
        shown = f"auxiliary, {name}"
        # tissue has no cell to cut out
        cut = stages if known[name].only_cells or _shows_cells(named_sets, chosen) else ()
        found = open_inputs(named_sets, labels=chosen, role=shown, unreadable=unreadable, stages=cut)
        if known[name].labelled and chosen != labels:
            found = replace(found, notes=(*found.notes, f"{found.dataset.name}: no class of {labels}, read as labelled"))
        opened[name] = found
    return opened


def refuse_learned(methods: Sequence[Method], auxiliary: Mapping[str, CellDataset], tested: Sequence[CellDataset]) -> None:
    """Raise `SplitError` when a set whose labels are learned holds a validation or test image."""
    roles = _roles_of(methods)
    for name, dataset in auxiliary.items():
        if roles[name].labelled:
            for part in tested:
                refuse_leaks(traces(dataset), part)


def mask_note(config: StrictConfig, train: CellDataset) -> str | None:
    """How many training images have a mask, where the method uses masks of the dataset.

    Raises `ConfigError` where the method makes images from masks and there is none.
    """
    use = getattr(config, "masks", None)
    if use is None or use.segmenter or not (use.copies or use.masked_inputs):
        return None
    n_masks = sum(record.mask_path is not None for record in train.records)
    if use.copies and not n_masks:
        raise ConfigError(
            f"no image of {train.name} has a mask to cut its cell out by",
            expected="images with masks, as in wbc_subsets, jtsc, or a csv with the column mask",
            remedy="Add --set masks.segmenter=classical or --set masks.copies=0.",
        )
    return f"{train.name}: {n_masks} of {len(train)} training images have a mask"


def parts_for(method: Method, auxiliary: Mapping[str, CellDataset]) -> dict[str, CellDataset]:
    """The sets with a role of the method."""
    return {role.name: auxiliary[role.name] for role in method.roles if role.name in auxiliary}


def _roles_of(methods: Sequence[Method]) -> dict[str, AuxiliaryRole]:
    return {role.name: role for method in methods for role in method.roles}


def _shows_cells(specs: Sequence[PathLike], labels: str) -> bool:
    return any(r.cell_type is not None for spec in specs for r in open_dataset(spec, labels=labels).records)


def _labels_for(specs: Sequence[PathLike], labels: str) -> str:
    """`labels` where a set has any class under it, otherwise as labelled."""
    if labels == AS_LABELLED:
        return labels
    try:
        return labels if any(open_dataset(spec, labels=labels, strict=True).classes for spec in specs) else AS_LABELLED
    except LabelError:
        return AS_LABELLED  # labels outside the taxonomy
