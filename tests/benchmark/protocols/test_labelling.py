"""The protocol labelling: what is bought, who sees which label, and how its curves are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from hemalens.adaptation.active_learning import Pool
from hemalens.adaptation.source_head import SourceHead
from hemalens.benchmark.protocols import labelling as module
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.labelling import LabellingProtocol
from hemalens.benchmark.protocols.laboratory import Embedded, EmbeddedLaboratory, split_target
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset, Record
from hemalens.errors import ConfigError, SplitError
from hemalens.graphs import build as graphs
from hemalens.report import k_shot as told
from hemalens.report.curves import positions
from hemalens.report.figures import Figures
from hemalens.report.summary import summarise_k_shot


@pytest.fixture(autouse=True)
def _content_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "content_id", lambda self: self.path.stem)


def _head(weight: Any, labels: tuple[str, ...]) -> SourceHead:
    """embedding @ weight as logits."""
    node = helper.make_node("MatMul", ["embedding", "weight"], ["logits"])
    d, k = weight.shape
    ends = [graphs.float_value("embedding", ["n", d])], [graphs.float_value("logits", ["n", k])]
    return SourceHead(
        graphs.make_model([node], *ends, [numpy_helper.from_array(weight.astype(np.float32), "weight")]), labels
    )


def _embedded(n_each: int = 14, spread: float = 0.6) -> Embedded:
    """Three classes; the head has them in another order, knows a fourth, and mistakes two of them."""
    rng = np.random.default_rng(0)
    index = rng.permutation(np.repeat(np.arange(3), n_each))
    records = tuple(Record(Path(f"{i}.png"), f"class {c}", "away", label=f"class {c}") for i, c in enumerate(index))
    dataset = CellDataset("away", records, ("class 0", "class 1", "class 2"), "as_labelled", "-", "-")
    embeddings = np.eye(3, 5)[index] + rng.normal(0, spread, (len(index), 5))
    weight = np.zeros((5, 4))
    weight[0, 2] = weight[1, 2] = weight[2, 3] = 3.0
    return Embedded(dataset, embeddings, head=_head(weight, ("other", "class 1", "class 0", "class 2")))


PLAN = LabellingProtocol(budgets=(6, 12), strategies=("random", "even"), repeats=3)


def test_a_head_is_arranged_for_the_classes_of_a_laboratory() -> None:
    head = _head(np.array([[1.0, 2.0, 6.0]]), ("a", "b", "c"))
    assert head.classes_with(("c", "new")) == ("c", "new", "a", "b")
    np.testing.assert_allclose(head.logits(np.ones((1, 1)), ("c", "new", "a", "b")), [[6, 3, 1, 2]])


def test_curves_start_at_the_base_and_labels_help() -> None:
    target = _embedded()
    found = PLAN.score(EmbeddedLaboratory(target), method="m", source="lab_a", seed=0)
    assert [result.variant for result in found] == ["random", "even"]
    for result in found:
        assert [shots.k for shots in result.shots] == [0, 6, 12]
        assert (result.against, result.transductive, result.classes) == ("labelled", False, target.dataset.classes)
        first, *_, last = (shots.balanced_accuracy.value for shots in result.shots)
        assert first is not None
        assert last is not None
        assert last > first
    assert found[0].shots[0] == found[1].shots[0]
    held = [split_target(target.dataset, 0.4, 0, "labelling", r) for r in range(3)]
    assert target.head is not None
    order = target.head.classes_with(target.dataset.classes)
    answers = target.head.logits(target.embeddings, order).argmax(axis=1)
    truth = target.dataset.targets
    by_hand = [np.mean([(answers[h & (truth == c)] == c).mean() for c in range(3)]) for h in held]
    assert found[0].shots[0].balanced_accuracy.value == pytest.approx(np.mean(by_hand))


def test_no_tested_cell_is_ever_bought_and_no_other_label_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    target, sizes = _embedded(), []
    choose, fit = module.choose, FewShotConfig(rule="base").make().__class__.fit

    def spy(strategy: str, pool: Pool, n: int, rng: np.random.Generator) -> Any:
        sizes.append(len(pool.labelled))
        return choose(strategy, pool, n, rng)

    seen = []

    def spy_fit(self: Any, X: Any, y: Any, *given: Any, **more: Any) -> Any:
        seen.append(len(y))
        return fit(self, X, y, *given, **more)

    monkeypatch.setattr(module, "choose", spy)
    monkeypatch.setattr("hemalens.classifiers.few_shot.PrototypeClassifier.fit", spy_fit)
    PLAN.score(EmbeddedLaboratory(target), method="m", source="lab_a", seed=0)
    n_rest = {int((~split_target(target.dataset, 0.4, 0, "labelling", r)).sum()) for r in range(3)}
    assert set(sizes) == n_rest
    assert set(seen) <= {6, 12}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SplitError, match="too few images to label 80"):
        LabellingProtocol().check([NewLaboratory(_embedded().dataset, None)], seed=0)
    with pytest.raises(ConfigError, match="unknown strategy 'best'"):
        LabellingProtocol(strategies=("best",))
    with pytest.raises(ConfigError, match="starts from the bundle's head"):
        LabellingProtocol(few_shot=FewShotConfig())
    with pytest.raises(SplitError, match="cannot use these budgets"):
        LabellingProtocol(budgets=(0, 8))


def test_the_report_tells_the_strategies_apart() -> None:
    found = PLAN.score(EmbeddedLaboratory(_embedded()), method="m", source="lab_a", seed=0)
    (target,) = told.targets(found)
    assert [line.name for line in target.lines] == ["random", "even"]
    section = told.section(target, n_points=0)
    assert section.heading == "Which cells to label: away"
    (table,) = told.overviews(found)
    assert "k labelled images, with" in table.caption
    assert [column.title for column in table.columns][1:4] == ["k = 0", "k = 6", "k = 12"]
    (sentence,) = summarise_k_shot(found)
    assert "as it is; with 12 labelled images" in sentence
    assert positions((0, 8, 16)) == dict(zip((0, 8, 16), positions((4, 8, 16)).values(), strict=True))
    (curves,) = (block for block in section.blocks if isinstance(block, Figures))
    assert all("<svg" in panel.drawing.svg() for panel in curves.panels)
