"""What a run of the BloodShot study does otherwise than the paper, besides what every run does (its file of numbers)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hemalens.config import StrictConfig
from hemalens.evaluation.results import DataCard
from hemalens.methods.bloodshot import BloodShotConfig
from hemalens.studies.base import changed_settings, describe
from hemalens.studies.bloodshot.embedders import PUBLISHED, embedder_config

LEFT_OUT = ("checkpoint", "n_loader_workers")
"""Settings without an effect on the published rows."""


def run_differences(
    data: Mapping[str, Sequence[str]],
    cards: Sequence[DataCard],
    n_copies: int,
    config: StrictConfig,
    embedders: Mapping[str, BloodShotConfig],
) -> list[str]:
    """Sentences on the run's data and settings; `cards` are in the order of the roles and of their specs."""
    return [*_data_differences(data, cards, n_copies), *_setting_differences(config, embedders)]


def _data_differences(data: Mapping[str, Sequence[str]], cards: Sequence[DataCard], n_copies: int) -> Iterator[str]:
    remaining = iter(cards)
    for role in describe("bloodshot").roles:
        given = [(spec, next(remaining)) for spec in data.get(role.name, ())]
        wanted = role.published
        for spec, card in given:
            n_found = card.n_images + sum(card.dropped.values()) + sum(card.excluded.values())
            if not wanted.is_given(spec, n_found):
                theirs = f"{wanted.title} with {wanted.n_images:,}"
                yield f"The {role.name} set is {card.name} with {n_found:,} images; published is {theirs}."
        if not given:
            yield f"Support images come from the tested set, whose other images are tested; published is {wanted.title}."
    if n_copies:
        yield f"{n_copies:,} copies, or images under two labels, of the generic set are in no part."


def _setting_differences(config: StrictConfig, embedders: Mapping[str, BloodShotConfig]) -> Iterator[str]:
    changed = dict(_changed("", config, type(config)()))
    for row in PUBLISHED:
        changed |= _changed("embedder.", embedders[row], embedder_config(row, ()))
    if changed:
        listed = "; ".join(f"{key}={value} ({theirs})" for key, (value, theirs) in changed.items())
        yield f"Settings with another value than the published one, which is in brackets: {listed}."


def _changed(prefix: str, given: StrictConfig, as_published: StrictConfig) -> Iterator[tuple[str, tuple[object, object]]]:
    for key, values in changed_settings(given, as_published).items():
        if key not in LEFT_OUT:
            yield f"{prefix}{key}", values
