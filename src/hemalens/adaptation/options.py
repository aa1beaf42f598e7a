"""Options shared by the ways to adapt a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemalens.datasets.splits import Unreadable


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """How to adapt a bundle.

    `beside`: further bundles, or the word imagenet, whose embeddings are concatenated with the bundle's. `few_shot`:
    settings key=value of `FewShotConfig`. `settings`: settings key=value of `UnlabelledConfig`, or of
    `FewShotFinetuneConfig` with fine-tuning. `allow_new`: labels that the bundle does not know become new classes.
    `drop_unreadable`: leave out unreadable images of the support, and count them. `finetune`: train all weights on the
    labelled cells.
    """

    beside: Sequence[str | Path] = ()
    few_shot: Sequence[str] = ()
    settings: Sequence[str] = ()
    allow_new: bool = False
    drop_unreadable: bool = False
    finetune: bool = False

    @property
    def unreadable(self) -> Unreadable:
        """What becomes of unreadable images of the support."""
        return "drop" if self.drop_unreadable else "refuse"


DEFAULTS = AdaptOptions()
