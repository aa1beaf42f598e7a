"""The pieces of an adaptation to unlabelled images as one change of a bundle's logits, in NumPy and as a graph.

A head calibrated on its training laboratory is overconfident under domain shift. Its logits return to their training
temperature where that is softer, so that the pieces have an effect. At the end the mean confidence is that after the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from scipy.special import softmax

from hemalens.adaptation.class_means import ClassMeans
from hemalens.adaptation.mature_types import AmongMature, Floats
from hemalens.adaptation.neighbours import Neighbours
from hemalens.adaptation.size_evidence import SizeEvidence
from hemalens.adaptation.unlabelled_config import PIECES
from hemalens.classifiers.calibration import temperature_of_certainty
from hemalens.graphs import build as graphs


@dataclass(frozen=True, slots=True)
class Images:
    """What a bundle computes of images: logits (n, k), embeddings (n, d), and log nucleus diameters (n,) or None."""

    logits: Floats
    embeddings: Floats
    log_diameters: Floats | None = None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A change of the logits of the mature types `of`: `softening` in (0, 1], the pieces in their order, `temperature`."""

    of: AmongMature
    softening: float
    size: SizeEvidence | None = None
    neighbours: Neighbours | None = None
    class_means: ClassMeans | None = None
    temperature: float = 1.0

    @property
    def pieces(self) -> tuple[str, ...]:
        """Names of the pieces in use, in their order."""
        return tuple(name for name in PIECES if getattr(self, name) is not None)

    def among(self, images: Images) -> NDArray[np.float64]:
        """Logits (n, m) of the mature types after the pieces, before the temperature."""
        found = np.asarray(images.logits, np.float64)[:, self.of.columns] * self.softening
        if self.size is not None and images.log_diameters is not None:
            found = self.size.logits(images.log_diameters, found)
        for piece in (self.neighbours, self.class_means):
            if piece is not None:
                found = piece.logits(images.embeddings, found)
        return found

    def logits(self, images: Images) -> NDArray[np.float64]:
        """Logits (n, k) of all classes."""
        return self.of.into(images.logits, self.among(images) / self.temperature)

    def as_confident(self, images: Images) -> Adjustment:
        """With the temperature at which the mean confidence among the mature types is that after the sizes."""
        counts = np.exp(self.of.log_mass(images.logits))
        own = replace(self, neighbours=None, class_means=None).among(images)
        kept = float(np.average(softmax(own, axis=1).max(axis=1), weights=counts))
        return replace(self, temperature=temperature_of_certainty(self.among(images), kept, counts))

    def graph(self, base: onnx.ModelProto) -> onnx.ModelProto:
        """A bundle's graph with this change of its logits; with sizes, its embedding gains the log diameter."""
        model = onnx.ModelProto()
        model.CopyFrom(base)
        nodes, constants = self.of.first_nodes("evidence_mature")
        nodes.append(helper.make_node("Mul", ["evidence_mature", "evidence_softening"], ["evidence_softened"]))
        constants["evidence_softening"] = np.array([self.softening], np.float32)
        constants["evidence_temperature"] = np.array([self.temperature], np.float32)
        last = "evidence_softened"
        steps = []
        if self.size is not None:
            steps.append(self.size.nodes(last, last := "evidence_sized", self.size.measured(model)))
        if self.neighbours is not None:
            steps.append(self.neighbours.nodes(last, last := "neighbour_smoothed"))
        if self.class_means is not None:
            steps.append(self.class_means.nodes(last, last := "means_added"))
        nodes_after, constants_after = self.of.last_nodes("evidence_cooled")
        for more, values in (*steps,):
            nodes += more
            constants |= values
        nodes += [helper.make_node("Div", [last, "evidence_temperature"], ["evidence_cooled"]), *nodes_after]
        graphs.insert_behind(model, "logits", nodes, constants | constants_after, then="logits")
        onnx.checker.check_model(model)
        return model
