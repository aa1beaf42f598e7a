"""What a bundle can learn of a new laboratory from images without labels, as graphs and pure NumPy. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper
from pydantic import Field, model_validator

from hemalens.bundle.bundle import Manifest
from hemalens.config import StrictConfig
from hemalens.errors import LabelError
from hemalens.graphs import build as graphs
from hemalens.taxonomy import cell_types, find_cell_type

Floats = NDArray[np.floating[Any]]
LARGEST_SCALE = 10.0
"""A feature that hardly varies on the new images is not blown up further: its spread is known too badly."""
FEWEST_OF_CLASS = 3
"""Of fewer images it is not known what a class looks like: they are not repeated further, and teach nothing."""
PIECES = ("batch_norm", "class_balance", "standardise", "pseudo_labels", "prior", "size", "class_bias", "neighbours")
"""What may follow the images, in the order in which it is done."""
UNTAUGHT = -1
"""In place of a class: an image that teaches none."""


class UnlabelledConfig(StrictConfig):
    """Which pieces of a bundle follow the new laboratory's images.

    `batch_norm`: the statistics of batch-norm layers, by batches of `batch_size` images. `class_balance`: the images of
    those batches are drawn so that each class is as frequent as the bundle's answers allow; otherwise batch norm takes a
    skewed mix of cells for a stain. `standardise`: each feature of the embedding is brought to its mean and standard
    deviation over training images. `pseudo_labels`: the head is taught by the answers that it is most certain of. `prior`:
    the share of each class is estimated, and rare classes are answered less often; of use where the model is well
    calibrated on the new images, and harmful where it is not. `size`: how large a nucleus is beside the laboratory's median
    one counts beside what the cell looks like, where the bundle knows the nuclei of its classes. `class_bias`: a constant
    is added for each class, so that answers become certain and stay diverse; types that are scarce in any blood, basophils,
    are then taken to be `scarce` times as frequent as they would be otherwise. Both take the head's logits at the
    temperature at which they were trained, where that is softer. `neighbours`: an answer leans on those of the nearest of
    the images; `neighbour_weight` is what they add to the logit of a class that all of them are of. `strength` in (0, 1]:
    the share of the new statistics beside the old, for batch norm and the standardised embedding.
    """

    batch_norm: bool = True
    class_balance: bool = False
    standardise: bool = False
    pseudo_labels: bool = False
    prior: bool = False
    size: bool = True
    class_bias: bool = True
    scarce: float = Field(default=0.5, gt=0, le=1)
    neighbours: bool = False
    neighbour_weight: float = Field(default=3.0, gt=0, le=20)
    strength: float = Field(default=0.5, gt=0, le=1)
    batch_size: int = Field(default=32, ge=8, le=1024)

    @model_validator(mode="after")
    def _something(self) -> UnlabelledConfig:
        if self.class_balance and not self.batch_norm:
            raise ValueError("class_balance goes with batch_norm=true only")
        if not self.pieces:
            raise ValueError(
                f"nothing follows the images: set one of {', '.join(p for p in PIECES if p != 'class_balance')} to true"
            )
        if self.prior and self.class_bias:
            raise ValueError("prior and class_bias both move the classes: set one of them to false")
        if "strength" in self.model_fields_set and not (self.batch_norm or self.standardise):
            raise ValueError("strength goes with batch_norm or standardise only")
        if "scarce" in self.model_fields_set and not self.class_bias:
            raise ValueError("scarce goes with class_bias only")
        if "neighbour_weight" in self.model_fields_set and not self.neighbours:
            raise ValueError("neighbour_weight goes with neighbours only")
        return self

    @property
    def pieces(self) -> tuple[str, ...]:
        """Names of the pieces in use."""
        return tuple(name for name in PIECES if getattr(self, name))

    @property
    def answers(self) -> bool:
        """Whether any piece looks at the bundle's answers to the images."""
        return self.pseudo_labels or self.prior or self.size or self.class_bias or self.neighbours


def balanced_weights(probabilities: Floats) -> NDArray[np.float64]:
    """The chance of each image (n,) to be drawn, sum 1, so that classes are as frequent as probabilities (n, k) allow.

    Each class shares out the same by how probable it is of the image: the sum over classes of p / (the sum of p over
    images). A class of which there are fewer than three images, counted so, is repeated no more than if there were three.
    """
    wide = np.asarray(probabilities, np.float64)
    weights = (wide / np.maximum(wide.sum(axis=0), FEWEST_OF_CLASS)).sum(axis=1)
    return np.asarray(weights / weights.sum())


def pseudo_labels(logits: Floats) -> NDArray[np.int64]:
    """The class that each image teaches (n,), by the logits (n, k) of its answer; `UNTAUGHT` where it teaches none.

    Of each class the most certain half of the images answered so, rounded up, at least three; a class with fewer answers is
    taught by none. Of images as certain the first counts.
    """
    wide = np.asarray(logits, np.float64)
    answers = wide.argmax(axis=1)
    # the odds against the answer order the images as its probability does, without being rounded where that is nearly 1
    others = np.exp(wide - wide.max(axis=1, keepdims=True))
    others[np.arange(len(wide)), answers] = 0
    against = others.sum(axis=1)
    taught = np.full(len(wide), UNTAUGHT, np.int64)
    for c in np.unique(answers):
        given = np.flatnonzero(answers == c)
        if len(given) >= FEWEST_OF_CLASS:
            n = max(FEWEST_OF_CLASS, -(-len(given) // 2))
            taught[given[np.argsort(against[given], kind="stable")[:n]]] = c
    return taught


def estimate_prior(
    probabilities: Floats, prior: Floats, *, n_steps: int = 1000, tolerance: float = 1e-9
) -> NDArray[np.float64]:
    """The share of each class (k,) among images, from a model's probabilities (n, k) and its training shares (k,).

    Expectation maximisation of the likelihood (Saerens, Latinne & Decaestecker 2002): probabilities are weighed by new over
    old share and normalised, their mean is the next share. Ends after `n_steps`, or when no share moves by `tolerance`.
    """
    old = np.asarray(prior, np.float64)
    likelihood = np.asarray(probabilities, np.float64) / old
    share = old / old.sum()
    for _ in range(n_steps):
        joint = likelihood * share
        following = (joint / np.maximum(joint.sum(axis=1, keepdims=True), np.finfo(float).tiny)).mean(axis=0)
        following /= following.sum()
        still = np.abs(following - share).max() < tolerance
        share = following
        if still:
            break
    return np.asarray(share)


def training_prior(manifest: Manifest) -> NDArray[np.float64]:
    """The share of each class (k,) that a bundle's probabilities assume, in label order.

    The last estimate where there is one; even where classes were drawn or weighed evenly, as for pseudo-labels, and for
    class means and nearest images; otherwise as many as there were.
    """
    labels, config = manifest.labels, manifest.config
    even = np.full(len(labels), 1 / len(labels))
    if manifest.unlabelled is not None and manifest.unlabelled.prior is not None:
        return np.array(manifest.unlabelled.prior)
    if manifest.unlabelled is not None and manifest.unlabelled.taught is not None:
        return even
    role = "train"
    if manifest.adaptation is not None:
        if manifest.adaptation.few_shot.get("rule") != "logistic_regression":
            return even
        role = "support"
    elif "balanced" in (config.get("sampling"), config.get("class_weights")):
        return even
    counts = [sum(e.class_counts.get(label, 0) for e in manifest.data if e.role == role) for label in labels]
    numbers = np.maximum(counts, 1).astype(np.float64)
    return np.asarray(numbers / numbers.sum())


def log_usual_shares(labels: Sequence[str], scarce: float) -> NDArray[np.float64]:
    """Logarithm of how frequent each class (k,) is taken to be beside what the others are: `scarce` for a type that is
    scarce in any blood, by the taxonomy, and 1 for all others, labels that name no cell type among them.
    """
    return np.log([scarce if _is_scarce(label) else 1.0 for label in labels])


def _is_scarce(label: str) -> bool:
    try:
        return cell_types()[find_cell_type(label)].scarce
    except LabelError:
        return False


def standardisation(source: Floats, target: Floats, strength: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift (d,) that bring features from the target's to the source's mean and standard deviation, each (2, d).

    `strength`: the share of the target's statistics beside the source's in what counts as the target's. A scale is at most
    10; a feature that does not vary in the source keeps its own.
    """
    mean, std = (1 - strength) * np.asarray(source, np.float64) + strength * np.asarray(target, np.float64)
    varies = source[1] > 0
    scale = np.where(varies, source[1] / np.maximum(std, np.where(varies, source[1], 1.0) / LARGEST_SCALE), 1.0)
    return scale.astype(np.float32), (source[0] - mean * scale).astype(np.float32)


def with_standardisation(graph: onnx.ModelProto, scale: Floats, shift: Floats) -> onnx.ModelProto:
    """A bundle's graph whose `embedding` is scale * (the embedding before) + shift; its head takes that."""
    before = _end_renamed(graphs.cut(graph, ["image"], ["embedding"]), "embedding")
    name = before.graph.output[0].name
    rest = [value.name for value in graph.graph.output if value.name != "embedding"]
    nodes = [
        helper.make_node("Mul", [name, "embedding_scale"], ["scaled_embedding"]),
        helper.make_node("Add", ["scaled_embedding", "embedding_shift"], ["embedding"]),
    ]
    vectors = {"embedding_scale": scale, "embedding_shift": shift}
    middle = graphs.make_model(
        nodes,
        [graphs.float_value(name, ["n", len(scale)])],
        [graphs.float_value("embedding", ["n", len(scale)])],
        [numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in vectors.items()],
    )
    return graphs.join(before, middle, graphs.cut(graph, ["embedding"], rest), keep=("embedding",))


def with_taught_head(graph: onnx.ModelProto, learned: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """A bundle's graph whose `logits` are those of `learned`, over `temperature`; finer types stay as they are.

    `learned` takes the `embedding` and the logits before as `base_logits`, and gives `raw_logits`.
    """
    others = [value.name for value in graph.graph.output if value.name not in ("embedding", "logits", "probabilities")]
    # a head that was taught before holds tensors of the same names
    head = graphs.cut(graph, ["embedding"], ["logits", *others])
    head = compose.add_prefix(head, "head_", rename_inputs=False, rename_outputs=False)
    head = _end_renamed(head, "logits", "base_logits")
    k = int(learned.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    return graphs.join(encoder, head, learned, graphs.temperature_graph(k, temperature), keep=("embedding",))


def with_prior(graph: onnx.ModelProto, log_ratio: Floats) -> onnx.ModelProto:
    """A bundle's graph with the logarithm of new over old share (k,) added to its `logits`, before the softmax."""
    # finer types are told given the class: no share of classes changes them
    others = [value.name for value in graph.graph.output if value.name not in ("embedding", "logits", "probabilities")]
    before = _end_renamed(graphs.cut(graph, ["image"], ["embedding", "logits", *others]), "logits")
    name, k = before.graph.output[1].name, len(log_ratio)
    nodes = [
        helper.make_node("Add", [name, "log_prior_ratio"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    tail = graphs.make_model(
        nodes,
        [graphs.float_value(name, ["n", k])],
        [graphs.float_value("logits", ["n", k]), graphs.float_value("probabilities", ["n", k])],
        [numpy_helper.from_array(np.asarray(log_ratio, np.float32), "log_prior_ratio")],
    )
    return graphs.join(before, tail, keep=("embedding",))


def _end_renamed(model: onnx.ModelProto, output: str, name: str = "") -> onnx.ModelProto:
    """The same model whose `output` has another name, one of its own or `name`, so that what follows can take its name."""
    name = name or f"{output}_before_{len(model.graph.node)}"
    for node in model.graph.node:
        node.input[:] = [name if given == output else given for given in node.input]
        node.output[:] = [name if given == output else given for given in node.output]
    for value in model.graph.output:
        value.name = name if value.name == output else value.name
    return model
