"""`robust` under a label map with further types: outputs of their own for the mature ones, and what is held back."""

from __future__ import annotations

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import timm
import torch
from scipy.special import logsumexp
from torch.nn.functional import cross_entropy

import trained
from hemalens.graphs.fp16 import with_half_weights
from hemalens.graphs.weights import further_tensors
from hemalens.methods.robust import RobustConfig, RobustModule, types_of
from hemalens.models.backbone import preprocessing_of
from hemalens.models.outline import OutlineNetwork, WithOutline
from hemalens.training.fit import graph_of
from hemalens.training.mature_types import AT_ALL, FurtherTypes
from hemalens.training.subclass_labels import FineLabels

CLASSES = ("neutrophil", "lymphocyte", "erythroblast", "artefact")
LABELS = FineLabels(
    CLASSES, ("band_neutrophil", "segmented_neutrophil", "lymphocyte", "erythroblast", "artefact"), (2, 1, 1, 1)
)


def _module(*, outline: bool) -> RobustModule:
    config = RobustConfig.from_mapping(
        {**trained.ROBUST, "optimiser": {"label_smoothing": 0.0}, "views": 1, "outline": outline}
    )
    preprocessing, n_outputs = preprocessing_of(config), types_of(LABELS, config).n_outputs
    assert n_outputs == 8, "three outputs of mature types, five of all types"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=n_outputs)
        if outline:
            network = WithOutline(network, OutlineNetwork(n_classes=n_outputs, weights="none", seed=0), preprocessing)
        return RobustModule(network, preprocessing, config=config, labels=LABELS, seed=0).eval()


def _pixels(module: RobustModule, n: int) -> torch.Tensor:
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return module.pixels(images)


def test_the_mature_types_learn_from_mature_cells_alone() -> None:
    module = _module(outline=False)
    pixels = _pixels(module, 4)
    targets = torch.tensor([0, 2, 3, 4])  # a band, a lymphocyte, an erythroblast, an artefact
    with torch.inference_mode():
        own = module.served.get_classifier()(module.embed(pixels))
        expected = AT_ALL * cross_entropy(own[:, 3:], targets) + cross_entropy(own[:2, :3], targets[:2]) / 2
        assert float(module.loss(pixels, targets)) == pytest.approx(float(expected), rel=1e-5)
        none = AT_ALL * cross_entropy(own[2:, 3:], targets[2:])
        assert float(module.loss(pixels[2:], targets[2:])) == pytest.approx(float(none), rel=1e-5)


@pytest.mark.parametrize("outline", [False, True])
def test_further_types_are_held_back_by_distance_and_the_mature_ones_keep_their_odds(outline: bool) -> None:
    module = _module(outline=outline)
    with torch.inference_mode():
        embedding = module.embed(_pixels(module, 40))
        before = module.classify(embedding).numpy().astype(float)
        rows, classes = embedding.numpy(), np.arange(40) % 4
        module.hold_back((rows, classes), (rows[:20], classes[:20]), (rows[:0], classes[:0]))
        after = module.classify(embedding).numpy().astype(float)
        far = module.classify(embedding + 100 * embedding.std()).numpy().astype(float)
    assert isinstance(module.further, FurtherTypes)
    np.testing.assert_allclose(logsumexp(after, axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(before[:, 0] - before[:, 1], after[:, 0] - after[:, 1], atol=1e-4)
    # no held-out mature cell is answered as a further type
    mature = classes[:20] < 2
    assert (after[:20][mature].argmax(axis=1) < 2).all()
    assert (far.argmax(axis=1) < 2).all(), "far from all training cells"


def test_types_that_are_drawn_less_often_get_that_back_where_no_mature_cell_suffers() -> None:
    module = _module(outline=False)
    rows = module.embed(_pixels(module, 40)).detach().numpy()
    classes = np.full(40, 3)
    classes[:4] = np.arange(4)
    module.hold_back((rows, classes), (rows[4:], classes[4:]), (rows[:0], classes[:0]))
    assert module.further is not None
    assert module.further.back == pytest.approx(np.log(module.further_types))


def test_a_network_of_mature_types_alone_holds_nothing_back() -> None:
    config = RobustConfig.from_mapping(trained.ROBUST)
    labels = FineLabels.none(("neutrophil", "lymphocyte"))
    module = RobustModule(
        timm.create_model("test_resnet", num_classes=2), preprocessing_of(config), config=config, labels=labels, seed=0
    )
    assert not module.holds_back
    assert _module(outline=False).holds_back


def test_a_graph_gives_back_what_holds_the_further_types_back_also_in_16_bits() -> None:
    module = _module(outline=False)
    embedding = module.embed(_pixels(module, 40)).detach()
    rows, classes = embedding.numpy(), np.arange(40) % 4
    module.hold_back((rows, classes), (rows[:20], classes[:20]), (rows[:0], classes[:0]))
    assert module.further is not None
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    expected = module.further(logits, embedding).numpy()
    graph = graph_of(module)
    for made, tolerance in ((graph, 1e-5), (with_half_weights(graph), 1e-2)):
        tensors = {name: torch.from_numpy(values.copy()) for name, values in further_tensors(made).items()}
        found = FurtherTypes.of(tensors)
        assert found is not None
        np.testing.assert_allclose(found(logits, embedding).numpy(), expected, rtol=tolerance, atol=tolerance)
    assert FurtherTypes.of({}) is None
