"""A realistic fake `Report`: consistent counts, real intervals, drawn thumbnails; no model is trained."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.evaluation.results import (
    ClassScores,
    ComparisonTable,
    DataCard,
    Estimate,
    Evaluation,
    KShot,
    ReliabilityBin,
    Report,
    Scatter,
    ScatterPoint,
    Scores,
    Shots,
    Supervised,
    TrainingCurve,
    WrongCell,
)

CLASSES = (
    *("basophil", "blast", "eosinophil", "erythroblast", "lymphocyte"),
    *("monocyte", "promyelocyte", "segmented_neutrophil"),
)
NO_VALUE = Estimate(value=None)
N_BINS = 15
KS = (1, 2, 3, 5, 10, 20)
EMBEDDERS = (
    *("softmax, random", "aam, random", "aam+consistency, random", "aam, ImageNet", "aam, ImageNet, augmented"),
    *("softmax, ImageNet", "aam+consistency, ImageNet", "ImageNet, frozen"),
)
DRAWN_AS = {"promyelocyte": "blast", "segmented_neutrophil": "neutrophil"}


def make_report(
    *,
    n_evaluations: int = 2,
    n_points: int = 300,
    synthetic: bool = True,
    seed: int = 0,
    missing: bool = False,
    domain: str = "lab_b",
    file_name: str = "images/monocyte/monocyte_0007.png",
    title: str = "Linear probe and prototypes across two laboratories",
) -> Report:
    """A report of `n_evaluations`, each with `n_points` in its scatter; the same arguments give the same report.

    The second and every following evaluation tests fewer classes than it was trained on. With `missing`, the first
    has no value for whatever may be None. `domain` and `file_name` go wherever the report prints such names.
    """
    rng = np.random.default_rng(seed)
    evaluations = [
        make_evaluation(number, rng, n_points=n_points, domain=domain, file_name=file_name, missing=missing and number == 0)
        for number in range(n_evaluations)
    ]
    return Report(
        title=title,
        created="2026-03-14T09:26:53+00:00",
        command="hemalens study transfer --source runs/data/lab_a --target runs/data/lab_b --seed 0 --out runs/report",
        protocol="train on one laboratory, test on another; five folds by smear",
        summary=(
            "Trained on lab_a and tested on lab_b, the linear probe has a balanced accuracy of 0.759; chance is 0.167.",
            "Within lab_a it reaches 0.882; the change of laboratory costs 0.123.",
            "Lymphocytes are named least precisely: 29 of 112 answers are right.",
        ),
        synthetic=synthetic,
        data=(_card("source", "lab_a", rng, synthetic), _card("target", domain, rng, synthetic)),
        evaluations=tuple(evaluations),
        methods={
            "linear_probe": {
                "backbone": {"name": "resnet18", "weights": "imagenet", "layer": "avgpool"},
                "c": 1.0,
                "balanced": True,
                "max_iterations": 1000,
                "image_size_px": [224, 224],
            },
            "prototypes": {"backbone": {"name": "resnet18", "weights": "imagenet"}, "metric": "cosine", "k_shot": None},
        },
        environment={
            "hemalens": "0.1.0",
            "python": "3.11.7",
            "torch": "2.6.0",
            "platform": "Linux x86_64",
            "threads": "2",
        },
        seed=0,
    )


def make_curve(name: str = "finetune", n: int = 4, shift: float = 0.0, **changes: Any) -> TrainingCurve:
    """A training of `n` epochs whose losses fall and scores rise, `shift` worse."""
    epochs = range(1, n + 1)
    values: dict[str, Any] = {
        "epoch": tuple(epochs),
        "train_loss": tuple(1.5 / i + shift for i in epochs),
        "val_loss": tuple(1.8 / i + shift for i in epochs),
        "accuracy": tuple(1 - 0.5 / i - shift for i in epochs),
        "balanced_accuracy": tuple(1 - 0.7 / i - shift for i in epochs),
        "kept": n,
    }
    return TrainingCurve(name=name, **(values | changes))


def make_k_shot_report(
    *,
    targets: tuple[str, ...] = ("lab_b", "lab_c"),
    n_methods: int = 5,
    ks: tuple[int, ...] = KS,
    n_points: int = 60,
    file_name: str = "images/monocyte/monocyte_0007.png",
    seed: int = 0,
) -> Report:
    """A report without evaluations: `n_methods` embedders on each target, the last of them transductive."""
    rng = np.random.default_rng(seed)
    results = [
        make_k_shot(number, rng, target=target, ks=ks, n_points=n_points, transductive=number == n_methods - 1)
        for target in targets
        for number in range(n_methods)
    ]
    results = [r.model_copy(update={"unreadable": {file_name: "truncated after 2,048 bytes"}}) for r in results]
    report = make_report(n_evaluations=0, seed=seed, title="Few labelled cells of a new laboratory")
    summary = ("With 10 labelled images of each cell type, aam, ImageNet is closest to what all labels give.",)
    return report.model_copy(update={"k_shot": tuple(results), "tables": _comparisons(), "summary": summary})


def make_k_shot(
    number: int,
    rng: np.random.Generator,
    *,
    target: str = "lab_b",
    ks: tuple[int, ...] = KS,
    n_points: int = 60,
    transductive: bool = False,
) -> KShot:
    """An embedder on a target: scores that rise with k, towards those of all labels."""
    classes = CLASSES[:5] if target == "lab_b" else CLASSES[2:]
    best, start = 0.95 - 0.025 * number, 0.52 - 0.03 * number
    curve = {k: best - 0.02 - (best - start) * np.exp(-0.75 * np.log1p(k)) for k in ks}
    method = EMBEDDERS[number]
    return KShot(
        name=f"{method}: lab_a -> {target}",
        method=method,
        source="lab_a",
        target=target,
        support=f"{target} itself, the rest is tested",
        classifier="class means, cosine, centred on the target" if transductive else "class means, cosine",
        replacement=True,
        transductive=transductive,
        n_images=1234,
        classes=classes,
        left_out={"promyelocyte": "fewer than 25 images in the target"} if target == "lab_b" else {},
        shots=tuple(_shots(k, float(mean), classes, rng) for k, mean in curve.items()),
        supervised=Supervised(
            what=f"logistic regression on all labels, 5 folds of {target}",
            accuracy=Estimate(value=best + 0.01, low=best, high=best + 0.02),
            balanced_accuracy=Estimate(value=best, low=best - 0.012, high=best + 0.013),
        ),
        scatter=_scatter(classes, n_points, rng, target) if n_points else None,
        intervals="95 %: bootstrap of the mean over repeats and, within their classes, over the tested images",
    )


def _shots(k: int, mean: float, classes: tuple[str, ...], rng: np.random.Generator) -> Shots:
    def estimate(shift: float) -> Estimate:
        value, half = mean + shift + float(rng.normal(0, 0.006)), 0.015 + 0.05 / np.sqrt(k) * float(rng.uniform(0.5, 1.0))
        return Estimate(value=value, low=value - half, high=value + half, std=1.3 * half)

    return Shots(
        k=k,
        n_repeats=100,
        accuracy=estimate(0.03),
        majority_rate=0.312 + 0.0004 * k,
        balanced_accuracy=estimate(0.0),
        macro_f1=estimate(-0.02),
        f1={code: estimate(0.03 * (i - 3)) for i, code in enumerate(classes)},
    )


def _comparisons() -> tuple[ComparisonTable, ...]:
    return (
        ComparisonTable(
            title="Balanced accuracy on lab_b, k = 10",
            columns=("Embedder", "Published", "Ours", "Difference", "Repeats"),
            rows=(
                ("softmax, random", 0.7214, 0.7342, 0.0128, "100"),
                ("aam, random", 0.8129, 0.8015, -0.0114, "100"),
                ("aam, ImageNet", None, 0.8871, None, "100"),
            ),
            note="Published: Table 2 of the paper; other images of the same laboratory",
        ),
        ComparisonTable(
            title="What differs", columns=("Step", "Published", "Ours"), rows=(("Epochs", "not told", "12 to 40"),)
        ),
    )


def make_evaluation(
    number: int,
    rng: np.random.Generator,
    *,
    n_points: int = 300,
    domain: str = "lab_b",
    file_name: str = "images/monocyte/monocyte_0007.png",
    missing: bool = False,
) -> Evaluation:
    """One evaluation with scores that follow from its confusion counts, but the calibration ones, which are made up."""
    tested = CLASSES if number % 2 == 0 else tuple(c for c in CLASSES if c not in ("blast", "promyelocyte"))
    confusion = _confusion(tested, rng, quality=0.94 if number % 2 == 0 else 0.8)
    source, target = ("lab_a", "lab_a") if number % 2 == 0 else ("lab_a", domain)
    bins = _reliability(int(confusion.sum()), rng)
    ece = float(sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins))
    method = "linear_probe" if number < 2 else "prototypes"
    left_out = {c: "fewer than 5 images in the target" for c in CLASSES if c not in tested}
    return Evaluation(
        name=f"{method}, {source} to {target}",
        method=method,
        source=source,
        target=target,
        n_images=int(confusion.sum()),
        n_folds=5 if number % 2 == 0 else 1,
        classes=CLASSES,
        tested_classes=tested,
        left_out=left_out,
        unreadable={file_name: "truncated after 2,048 bytes"} if number else {},
        scores=_scores(tested, confusion, ece, missing=missing),
        per_class=tuple(_class_scores(code, tested, confusion, missing=missing) for code in tested),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        reliability=bins,
        scatter=_scatter(tested, n_points, rng, domain),
        most_confident_errors=_errors(tested, rng, file_name),
        intervals="95 % percentile intervals from 2,000 bootstrap draws over smears, stratified by cell type.",
    )


def _confusion(tested: tuple[str, ...], rng: np.random.Generator, *, quality: float) -> NDArray[np.int64]:
    """Counts (n_tested, n_classes)."""
    rows = []
    for code in tested:
        true = CLASSES.index(code)
        weights = rng.gamma(0.4, size=len(CLASSES))
        weights[true] = 0.0
        shares = (1 - quality * rng.uniform(0.85, 1.05)) * weights / weights.sum()
        shares[true] = 1 - shares.sum()
        rows.append(rng.multinomial(int(rng.integers(11, 420)), np.clip(shares, 0, 1)))
    return np.asarray(rows, dtype=np.int64)


def _wilson(k: int, n: int) -> Estimate:
    if n == 0:
        return NO_VALUE
    z, p = 1.96, k / n
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return Estimate(value=p, low=max(0.0, float(middle - half)), high=min(1.0, float(middle + half)))


def _class_scores(code: str, tested: tuple[str, ...], confusion: NDArray[np.int64], *, missing: bool) -> ClassScores:
    column, row = CLASSES.index(code), tested.index(code)
    right, n, n_answered = int(confusion[row, column]), int(confusion[row].sum()), int(confusion[:, column].sum())
    return ClassScores(
        label=code,
        n=n,
        n_answered=n_answered,
        precision=NO_VALUE if missing else _wilson(right, n_answered),
        recall=NO_VALUE if missing else _wilson(right, n),
        f1=None if missing else 2 * right / (n + n_answered),
    )


def _scores(tested: tuple[str, ...], confusion: NDArray[np.int64], ece: float, *, missing: bool) -> Scores:
    if missing:
        return Scores(
            accuracy=NO_VALUE, majority_rate=None, balanced_accuracy=NO_VALUE, macro_f1=NO_VALUE,
            balanced_accuracy_restricted=NO_VALUE, ece=None, nll=None,
        )  # fmt: skip
    right = np.array([confusion[i, CLASSES.index(c)] for i, c in enumerate(tested)])
    n = confusion.sum(axis=1)
    answered = np.array([confusion[:, CLASSES.index(c)].sum() for c in tested])
    balanced = float((right / n).mean())
    f1 = float((2 * right / (n + answered)).mean())
    return Scores(
        accuracy=_wilson(int(right.sum()), int(n.sum())).model_copy(update={"std": 0.0123}),
        majority_rate=float(n.max() / n.sum()),
        balanced_accuracy=Estimate(value=balanced, low=balanced - 0.021, high=balanced + 0.018, std=0.0154),
        macro_f1=Estimate(value=f1, low=f1 - 0.024, high=f1 + 0.019),
        balanced_accuracy_restricted=Estimate(value=balanced + 0.01, low=balanced - 0.012, high=balanced + 0.026),
        ece=ece,
        nll=0.1 + 3 * ece,
    )


def _reliability(n: int, rng: np.random.Generator) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, N_BINS + 1)
    shares = edges[1:] ** 6
    shares[:3] = 0
    counts = rng.multinomial(n, shares / shares.sum())
    bins = []
    for low, high, k in zip(edges[:-1], edges[1:], counts, strict=True):
        confidence = float(rng.uniform(low, high)) if k else float((low + high) / 2)
        accuracy = float(rng.binomial(k, max(confidence - 0.06, 0)) / k) if k else 0.0
        bins.append(ReliabilityBin(low=float(low), high=float(high), n=int(k), confidence=confidence, accuracy=accuracy))
    return tuple(bins)


def _scatter(tested: tuple[str, ...], n: int, rng: np.random.Generator, domain: str) -> Scatter:
    centres = {code: rng.normal(0, 4, size=2) for code in CLASSES}
    points = []
    for _ in range(n):
        code = tested[int(rng.integers(len(tested)))]
        x, y = centres[code] + rng.normal(0, 1.1, size=2)
        wrong = rng.random() < 0.12
        predicted = CLASSES[int(rng.integers(len(CLASSES)))] if wrong else code
        place = ("lab_a", domain)[int(rng.integers(2))]
        points.append(ScatterPoint(x=float(x), y=float(y), label=code, predicted=predicted, domain=place))
    return Scatter(explained=(0.342, 0.187), n_total=4 * n, points=tuple(points))


def _errors(tested: tuple[str, ...], rng: np.random.Generator, file_name: str) -> tuple[WrongCell, ...]:
    cells = []
    for i in range(12):
        code = tested[i % len(tested)]
        predicted = CLASSES[(CLASSES.index(code) + 1 + i % 3) % len(CLASSES)]
        cells.append(
            WrongCell(
                name=file_name,
                label=code,
                predicted=predicted,
                probability=float(0.999 - 0.03 * i),
                thumbnail=_thumbnail(code),
            )
        )
    return tuple(cells)


@cache
def _thumbnail(code: str) -> str:
    """A drawn cell of 96 px as a JPEG in base64."""
    image, _ = draw_cell(DRAWN_AS.get(code, code), LABORATORIES["lab_a"], np.random.default_rng(0))
    buffer = io.BytesIO()
    Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _card(role: str, name: str, rng: np.random.Generator, synthetic: bool) -> DataCard:
    counts: dict[str, int] = {code: int(rng.integers(11, 420)) for code in CLASSES}
    facts: dict[str, Any] = {}
    if role == "target":
        facts = {
            "excluded": {"smudge cell: no class of the label map": 23, "artefact: no class of the label map": 7},
            "dropped": {"identical to an image of the source": 4},
            "notes": ("Cells are cut out at 8 pixels per micrometre.",),
        }
    return DataCard(
        role=role,
        name=name,
        n_images=sum(counts.values()),
        class_counts=counts,
        licence="Apache-2.0" if synthetic else "CC BY 4.0",
        citation="drawn by hemalens"
        if synthetic
        else "Acevedo et al., Data in Brief 30 (2020) 105474, https://doi.org/10.17632/snkd93bnjr.1",
        fingerprint="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        synthetic=synthetic,
        **facts,
    )
