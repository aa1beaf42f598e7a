"""Training curves: loss and scores of every epoch."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from hemalens.evaluation.results.base import Part

Series = tuple[float | None, ...]
"""One value an epoch; None where it is missing or not finite."""


class TrainingCurve(Part):
    """Loss and scores of one training, a value an epoch; an empty series was not recorded.

    Curves of one `group` share a figure; those of one `name` in it are trainings of one model with several seeds. `part`
    names the images of all but `train_loss` and `further`: "validation" or "test". `further` holds other
    quantities of the training part by their name, such as the terms of an autoencoder's loss. `kept` is the epoch whose
    weights were kept, where it is known.
    """

    name: str
    group: str = ""
    part: str = "validation"
    epoch: tuple[int, ...] = Field(min_length=1)
    """The number of each epoch, counted from 1, ascending."""
    train_loss: Series = ()
    val_loss: Series = ()
    val_nll: Series = ()
    """Negative log-likelihood per image, in nats, before calibration."""
    accuracy: Series = ()
    balanced_accuracy: Series = ()
    further: dict[str, Series] = Field(default_factory=dict)
    kept: int | None = None

    def series(self) -> Iterator[tuple[str, Series]]:
        """Every recorded series with its name."""
        own = ("train_loss", "val_loss", "val_nll", "accuracy", "balanced_accuracy")
        found = {name: getattr(self, name) for name in own} | self.further
        return ((name, values) for name, values in found.items() if values)

    @model_validator(mode="after")
    def _a_value_an_epoch(self) -> TrainingCurve:
        if self.epoch[0] < 1 or any(b <= a for a, b in zip(self.epoch, self.epoch[1:], strict=False)):
            raise ValueError("epochs that do not ascend from 1 or later")
        for name, values in self.series():
            if len(values) != len(self.epoch):
                raise ValueError(f"{name} has {len(values)} values for {len(self.epoch)} epochs")
        if self.kept is not None and self.kept not in self.epoch:
            raise ValueError(f"the kept epoch {self.kept} is none of the epochs")
        return self
