"""What differs from the papers in a run of a white-cell study, and what keeps published numbers from being comparable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hemalens.evaluation.results import DataCard
from hemalens.studies.base import Study
from hemalens.studies.wbc.common import FIT, OpenStudy

NO_RESULT = ("n_loader_workers",)
"""Settings that no result depends on."""


def differences(study: Study, opened: OpenStudy) -> list[str]:
    """Sentences: what every run of the study does otherwise than its paper, then what this run does."""
    protocol = opened.protocol
    found = [*study.differences]
    if protocol.selection == "validation":
        found.append(
            "Both papers report the best epoch on the tested images (optimistic; --published-only does so too). Here other "
            "images choose the epoch."
        )
    else:
        found.append("The epoch is chosen on the tested images, as in both papers: the scores are optimistic.")
    if protocol.seeds > 1:
        found.append(f"Both papers train once, here each number is a mean over {protocol.seeds} trainings.")
    if opened.cells.segmenter:
        found.append(f"The masks of the training images are those of the segmenter {opened.cells.segmenter}.")
    if not opened.cells.published:
        found.append("The white cells are not WBC_100 and its subsets: the published accuracies are left out.")
    if images := _images(study, opened):
        found.append(f"The data are not the published ones: {'; '.join(images)}.")
    if settings := _settings(opened):
        found.append(f"Settings are not the published ones: {'; '.join(settings)}.")
    return found


def departures(study: Study, opened: OpenStudy) -> list[str]:
    """Reasons why published accuracies are not comparable: other images, or published rows with other settings."""
    return [*_images(study, opened), *_settings(opened)]


def _images(study: Study, opened: OpenStudy) -> list[str]:
    cards = {card.role: card for card in opened.cells.cards}
    roles = (role for row, _ in opened.rows.values() if not row.ours for role in row.auxiliary)
    cards |= {role: opened.more[role].card for role in roles}
    found = other_images(study, cards)
    return found if "held" in cards else [*found, "tested on other images"]


def _settings(opened: OpenStudy) -> list[str]:
    found = [text for key, (row, _) in opened.rows.items() if not row.ours for text in changed_settings(opened, key)]
    return list(dict.fromkeys(found))


def other_images(study: Study, cards: Mapping[str, DataCard]) -> list[str]:
    """The roles whose data have another number of images than the published ones, before any are left out."""
    found = []
    for role in study.roles:
        if role.name in cards:
            card = cards[role.name]
            n = card.n_images + sum(card.dropped.values())
            if n != role.published.n_images:
                found.append(f"{role.name} has {n:,} images, not the {role.published.n_images:,} of {role.published.title}")
    return found


def changed_settings(opened: OpenStudy, key: str) -> list[str]:
    """The settings of a row with other values than published, as `fit.KEY=VALUE`."""
    row, config = opened.rows[key]
    as_published = dict(_flat(row.config([]).model_dump()))
    changed = [(name, value) for name, value in _flat(config.model_dump()) if as_published.get(name) != value]
    return [f"{FIT}{name}={value}" for name, value in changed if name not in NO_RESULT]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
