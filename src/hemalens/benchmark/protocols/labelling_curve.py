"""The protocol labelling for a bundle on a new laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hemalens.adaptation.source_head import BaseHead
from hemalens.benchmark.protocols.labelling import LabellingPlan, check_budgets, labelling
from hemalens.benchmark.protocols.targets import NewLaboratory, embed_laboratory
from hemalens.bundle.bundle import Bundle
from hemalens.evaluation.results import KShot
from hemalens.graphs.build import cut


@dataclass(frozen=True, slots=True)
class LabellingCurves:
    """Scores against the number of labelled cells, for each strategy that chooses them."""

    plan: LabellingPlan

    @property
    def described(self) -> str:
        """The protocol in words."""
        plan = self.plan
        return (
            f"{', '.join(map(str, plan.budgets))} labelled cells chosen by {', '.join(plan.strategies)}, "
            f"{plan.n_repeats} repeats, {plan.classifier}"
        )

    @property
    def beside(self) -> tuple[str, ...]:
        """What stands beside the bundle."""
        return ()

    def check(self, laboratories: Sequence[NewLaboratory]) -> None:
        """Raise `SplitError` before anything is trained."""
        for laboratory in laboratories:
            check_budgets(laboratory.target, self.plan)

    def request(self) -> dict[str, Any]:
        """All that the scores depend on."""
        return {"plan": {**asdict(self.plan), "classifier": self.plan.classifier.model_dump(mode="json")}}

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """A curve for each strategy."""
        encoder = cut(bundle.graph, ["image"], ["embedding"])
        seen = embed_laboratory(
            laboratory, encoder, seed=seed, head=BaseHead.of(bundle), parts=bundle.manifest.embedding_parts
        )
        return labelling(seen.target, self.plan, method=bundle.manifest.method, source=source, supervised=seen.supervised)
