"""The protocol unlabelled: who is drawn, who is tested, and scores that are those of bundles adapted to what was drawn."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trained
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.adaptation.unlabelled_steps import adapted_to
from hemalens.benchmark.protocols import unlabelled as module
from hemalens.benchmark.protocols.data import NewLaboratory, open_laboratories
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.nucleus_size import sizes_of
from hemalens.bundle.seen import SEEN
from hemalens.bundle.stages import CentredCropStage
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import BundleError, ConfigError, SplitError
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.inference.predictor import Predictor
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"monocyte": (120, 150, 90), "lymphocyte": (110, 110, 160), "neutrophil": (150, 130, 90)}
"""Two of three types are mixed up there; listed in another order."""
PLAN = UnlabelledProtocol(images=(16, 8), pieces=("class_means", "neighbours+class_means"), repeats=3)
SETTINGS = {
    "size": ["size=true", "neighbours=false", "class_means=false"],
    "size+class_means": ["size=true", "neighbours=false"],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nearest mean colour."""
    folder = tmp_path_factory.mktemp("bundle")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 8, seed=0, noise=15)}")
    return trained.colour_bundle(folder / "bundle", cells, scale=30.0)


@pytest.fixture(scope="module")
def laboratory(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> NewLaboratory:
    mix = {"neutrophil": 20, "lymphocyte": 8, "monocyte": 8}
    folder = colour_cells(tmp_path_factory.mktemp("away") / "away", AWAY, mix, seed=1, noise=20)
    return open_laboratories([f"folder:{folder}"], None, labels=bundle.manifest.label_map)[0]


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nearest mean colour of centred crops, which knows how large nuclei are."""
    folder, stage = tmp_path_factory.mktemp("sized"), CentredCropStage(trained.finder(), CentredCropConfig())
    cells = trained.laboratory(tmp_path_factory).through((stage,))
    plain = trained.colour_bundle(folder / "plain", cells, scale=5.0)
    known = {"before_graph": (stage.entry(),), "nucleus_sizes": sizes_of(cells, (stage,))}
    files = {name: (plain.path / name).read_bytes() for name in (MODEL, SEEN)} | stage.files()
    return write_bundle(folder / "bundle", plain.manifest.model_copy(update=known), files)


@pytest.fixture(scope="module")
def sized_laboratory(sized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> NewLaboratory:
    spec = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    return open_laboratories([spec], None, labels=sized.manifest.label_map, stages=sized.stages)[0]


@pytest.fixture(autouse=True)
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece is used that the images suffice for."""
    monkeypatch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
    monkeypatch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
    monkeypatch.setattr("hemalens.adaptation.guards.FEW", 8)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[UnlabelledConfig, CellDataset]]:
    """What each adaptation was asked, and the images it saw."""
    seen: list[tuple[UnlabelledConfig, CellDataset]] = []

    def spy(base: Bundle, images: CellDataset, config: UnlabelledConfig, seed: int, **more: Any) -> Any:
        seen.append((config, images))
        return adapted_to(base, images, config, seed, **more)

    monkeypatch.setattr(module, "adapted_to", spy)
    return seen


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[list[frozenset[Path]]]:
    """The images that each call for scores tests, by repeat."""
    seen: list[list[frozenset[Path]]] = []
    query_scores = module.query_scores

    def spy(k: int, target: CellDataset, episodes: Any, answers: Any, **more: Any) -> Any:
        seen.append([frozenset(r.path for r, q in zip(target.records, e.query, strict=True) if q) for e in episodes])
        return query_scores(k, target, episodes, answers, **more)

    monkeypatch.setattr(module, "query_scores", spy)
    return seen


def _right(bundle: Bundle, paths: frozenset[Path]) -> float:
    answers = list(Predictor(bundle).predict(sorted(paths)))
    return float(np.mean([answer.label == answer.record.path.parent.name for answer in answers]))


def test_images_are_drawn_beside_the_tested_ones_and_more_hold_the_fewer(
    bundle: Bundle,
    laboratory: NewLaboratory,
    drawn: list[tuple[UnlabelledConfig, CellDataset]],
    tested: list[list[frozenset[Path]]],
) -> None:
    found = PLAN.run(bundle, laboratory, source="home", seed=4)
    assert [(curve.variant, curve.against, curve.transductive) for curve in found] == [
        ("class_means", "unlabelled", False),
        ("neighbours+class_means", "unlabelled", False),
    ]
    assert [[shots.k for shots in curve.shots] for curve in found] == [[0, 8, 16]] * 2
    assert all(parts == tested[0] for parts in tested), "every number and every piece has the same tests"
    assert len(set(tested[0])) == 3
    by_piece = [[frozenset(r.path for r in images.records) for _, images in drawn[i : i + 6]] for i in (0, 6)]
    assert by_piece[0] == by_piece[1]
    fewer, more = by_piece[0][:3], by_piece[0][3:]
    for small, large, test in zip(fewer, more, tested[0], strict=True):
        assert (len(small), len(large)) == (8, 16)
        assert small < large
        assert not large & test


def test_the_scores_are_those_of_bundles_adapted_to_what_was_drawn(
    sized: Bundle,
    sized_laboratory: NewLaboratory,
    drawn: list[tuple[UnlabelledConfig, CellDataset]],
    tested: list[list[frozenset[Path]]],
    tmp_path: Path,
) -> None:
    plan = UnlabelledProtocol(images=(12,), pieces=("size", "size+class_means"), repeats=2)
    found = plan.run(sized, sized_laboratory, source="home", seed=0)
    right = []
    for i, (config, images) in enumerate(drawn):
        folder = tmp_path / f"drawn {i}"
        folder.mkdir()
        for record in images.records:
            shutil.copy(record.path, folder)
        settings = SETTINGS["+".join(config.pieces)]
        adapted = adapt(
            sized.path, out=tmp_path / f"{i}", seed=4, unlabelled=str(folder), options=AdaptOptions(settings=settings)
        )
        right.append(_right(adapted, tested[0][i % 2]))
    for curve, expected in zip(found, (right[:2], right[2:]), strict=True):
        before, after = curve.shots
        assert before.accuracy.value == pytest.approx(np.mean([_right(sized, test) for test in tested[0]]))
        assert after.accuracy.value == pytest.approx(np.mean(expected))
        assert after.accuracy.value != before.accuracy.value


def test_the_same_seed_gives_the_same_curves(bundle: Bundle, laboratory: NewLaboratory) -> None:
    first, again = (PLAN.run(bundle, laboratory, source="home", seed=4) for _ in range(2))
    assert first == again


def test_numbers_that_the_laboratory_does_not_have_are_left_out(bundle: Bundle, laboratory: NewLaboratory) -> None:
    plan = UnlabelledProtocol(images=(8, 500), pieces=("class_means",), repeats=2)
    plan.check([laboratory], seed=0)
    (found,) = plan.run(bundle, laboratory, source="home", seed=0)
    assert [shots.k for shots in found.shots] == [0, 8]
    with pytest.raises(SplitError, match="away has too few images; expected 500 or more"):
        UnlabelledProtocol(images=(500,), repeats=2).check([laboratory], seed=0)


def test_a_piece_that_the_bundle_does_not_have_is_refused(bundle: Bundle, laboratory: NewLaboratory) -> None:
    plan = UnlabelledProtocol(images=(8,), pieces=("class_means", "size"), repeats=2)
    with pytest.raises(BundleError, match="without nucleus sizes"):
        plan.run(bundle, laboratory, source="home", seed=0)


@pytest.mark.parametrize("asked", [{"images": ()}, {"images": (7,)}, {"images": (8, 8)}])
def test_a_plan_that_cannot_be_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SplitError, match="cannot use these numbers of images"):
        UnlabelledProtocol(**asked)


@pytest.mark.parametrize("piece", ["colour", "prior", "standardise"])
def test_an_unknown_piece_is_refused(piece: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown piece '{piece}'.*size, neighbours, class_means"):
        UnlabelledProtocol(pieces=(f"size+{piece}",))


def test_pieces_are_joined_by_a_plus() -> None:
    assert UnlabelledProtocol().config("neighbours + size").pieces == ("size", "neighbours")
    with pytest.raises(ConfigError, match="no use for beside; got imagenet"):
        UnlabelledProtocol(beside=("imagenet",))


def test_the_last_of_the_pieces_that_are_compared_are_those_of_adapting() -> None:
    plan = UnlabelledProtocol()
    assert plan.config(plan.pieces[-1]).pieces == UnlabelledConfig().pieces


def test_what_the_scores_depend_on_is_in_the_request() -> None:
    requests = [
        UnlabelledProtocol(**asked).request()
        for asked in ({}, {"images": (8,)}, {"pieces": ("size",)}, {"repeats": 3}, {"test_fraction": 0.5})
    ]
    assert all(a != b for i, a in enumerate(requests) for b in requests[:i])
