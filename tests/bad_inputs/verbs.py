"""Wrong usage: data that are missing, swapped, of another verb, or options that do not go together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bad_input_cases import CLASSES, Case, Place

import trained

Arguments = Sequence[object]


def _case(name: str, make: Callable[[Place], Arguments], *says: str) -> Case:
    return Case(name, make, says)


def _of(place: Place) -> str:
    return f"folder:{place.cells()}"


def _other(place: Place, name: str) -> str:
    """Cells of the other laboratory, in a folder of this name."""
    for kind in CLASSES:
        (place.folder / name / kind).mkdir(parents=True)
        for image in sorted((trained.cells(place.temporary) / "lab_b" / "images" / kind).iterdir())[:6]:
            shutil.copy(image, place.folder / name / kind / image.name)
    return f"folder:{place.folder / name}"


def _predict(place: Place, *more: object) -> Arguments:
    return ("predict", *more, "--out", place.folder / "a.csv")


def _suggest(place: Place, *more: object) -> Arguments:
    return ("suggest", *more, "--out", place.folder / "a.csv")


def _evaluate(place: Place, bundle: Path, data: object) -> Arguments:
    return ("evaluate", bundle, "--data", data, "--out", place.out)


def _train(place: Place, *more: object) -> Arguments:
    return ("train", "linear_probe", "--train", _of(place), *more, "--out", place.out)


def _adapt(place: Place, *more: object) -> Arguments:
    return ("adapt", place.bundle(), *more, "--out", place.out)


def _benchmark(place: Place, *more: object) -> Arguments:
    return ("benchmark", "--methods", "linear_probe", "--source", _of(place), *more, "--out", place.out)


def _k_shot(place: Place, *more: object) -> Arguments:
    return ("benchmark", "--protocol", "k-shot", *more, "--out", place.out)


def _efficiency(place: Place, *more: object) -> Arguments:
    return ("benchmark", "--protocol", "efficiency", *more, "--out", place.out)


def _study(place: Place, *more: object) -> Arguments:
    return ("study", "mobilevit", *more, "--out", place.out)


MISSING = (
    _case("predict without anything", _predict, "no images given", "hemalens predict [BUNDLE]"),
    _case("predict with a bundle alone", lambda p: _predict(p, p.bundle()), "no images are given"),
    _case("suggest with a bundle alone", lambda p: _suggest(p, p.bundle()), "no images are given"),
    _case("adapt without cells", _adapt, "nothing to adapt to", "--support SPEC"),
    _case("benchmark without methods", lambda p: ("benchmark", "--out", p.out), "needs methods", "--methods"),
    _case(
        "benchmark without a source",
        lambda p: ("benchmark", "--methods", "robust", "--out", p.out),
        "needs sources",
        "--source",
    ),
    _case("study without data", _study, "needs --data ROLE=SPEC"),
    _case("study without an output", lambda p: ("study", "mobilevit", "--data", f"cells={_of(p)}"), "needs --out DIR"),
    _case("k-shot without a target", lambda p: _k_shot(p, "--bundle", p.bundle()), "no target is named", "--target SPEC"),
    _case("efficiency without a network", _efficiency, "no network is named", "--backbone NAME"),
)

SWAPPED = (
    _case("predict with images first", lambda p: _predict(p, p.cells(), p.bundle()), "is a bundle, and comes second"),
    _case("suggest with images first", lambda p: _suggest(p, p.cells(), p.bundle()), "is a bundle, and comes second"),
    _case("predict with two bundles", lambda p: _predict(p, p.bundle(), p.bundle("second")), "no image in", "second"),
    _case("evaluate with images for a bundle", lambda p: _evaluate(p, p.cells(), _of(p)), "is no bundle"),
    _case("evaluate on a bundle", lambda p: _evaluate(p, p.bundle(), p.bundle()), "reader:path"),
    _case("adapt with a bundle as support", lambda p: _adapt(p, "--support", p.bundle("b")), "reader:path"),
    _case(
        "a study for a method",
        lambda p: ("train", "bc-sam", "--train", _of(p), "--out", p.out),
        "unknown method 'bc-sam'",
        "'bc_sam'",
    ),
    _case(
        "a bundle for a segmenter", lambda p: ("segment", p.bundle(), p.cells(), "--out", p.out), "is no hemalens segmenter"
    ),
    _case("a classifier for --cell-image", lambda p: _train(p, "--cell-image", p.bundle()), "is no hemalens segmenter"),
    _case("audit of a bundle", lambda p: ("data", "audit", p.bundle()), "reader:path"),
    _case("audit of a plain folder", lambda p: ("data", "audit", p.cells()), "reader:path", "folder:"),
)

TOGETHER = (
    _case("--finetune alone", lambda p: _adapt(p, "--unlabelled", _of(p), "--finetune"), "--finetune needs --support"),
    _case("--allow-new alone", lambda p: _adapt(p, "--unlabelled", _of(p), "--allow-new"), "--allow-new needs --support"),
    _case(
        "--finetune with unlabelled images",
        lambda p: _adapt(p, "--support", _of(p), "--unlabelled", _of(p), "--finetune"),
        "--finetune and --unlabelled do not go together",
    ),
    _case(
        "--set for labelled cells",
        lambda p: _adapt(p, "--support", _of(p), "--set", "size=true"),
        "--set needs --unlabelled",
    ),
    _case(
        "--finetune of another method's bundle",
        lambda p: _adapt(p, "--support", _of(p), "--finetune"),
        "only networks of robust can be fine-tuned",
    ),
    _case(
        "settings of fp16",
        lambda p: (
            *("quantize", p.bundle(), "--calibrate", _of(p), "--precision", "fp16"),
            *("--set", "reduce_range=true", "--out", p.out),
        ),
        "fp16 has no settings",
    ),
    _case("embeddings into a CSV", lambda p: _predict(p, p.bundle(), p.cells(), "--embeddings"), ".parquet"),
    _case("an unknown strategy", lambda p: _suggest(p, p.bundle(), p.cells(), "--strategy", "tipical"), "'typical'"),
    _case("a sheet that is no image", lambda p: _suggest(p, p.bundle(), p.cells(), "--sheet", "a.txt"), ".png"),
    _case("a role that the method has not", lambda p: _train(p, "--aux", f"pretraining={_of(p)}"), "linear_probe"),
    _case(
        "a validation without classes", lambda p: _train(p, "--val", f"folder:{p.cells('v')}/neutrophil"), "class folders"
    ),
    Case(
        "a training that diverges",
        lambda p: (
            *("train", "finetune", "--train", _of(p), "--out", p.out),
            *(word for setting in trained.settings(trained.FINETUNE) for word in ("--set", setting)),
            *("--set", "optimiser.learning_rate=1e30", "--set", "optimiser.gradient_clip=1e30"),
        ),
        ("the training diverged in epoch ", "optimiser.learning_rate"),
        writes=("out",),
    ),
)

BENCHMARKS = (
    _case("two bundles for k-shot", lambda p: _k_shot(p, "--bundle", p.bundle(), "--bundle", p.bundle("b")), "one bundle"),
    _case(
        "k-shot of a bundle with a source",
        lambda p: _k_shot(p, "--bundle", p.bundle(), "--source", _of(p)),
        "--source does not apply to the protocol k-shot",
    ),
    _case(
        "k-shot on the training cells",
        lambda p: _k_shot(p, "--bundle", p.bundle(), "--target", _of(p), "--shots", "1"),
        "were trained on",
    ),
    _case(
        "k-shot beyond the images",
        lambda p: _k_shot(p, "--bundle", p.bundle(), "--target", _other(p, "lab"), "--shots", "900"),
        "k = 900 is larger than class",
        "Choose a smaller k",
    ),
    _case(
        "shots that are no numbers", lambda p: _k_shot(p, "--bundle", p.bundle(), "--shots", "1,x"), "cannot read --shots"
    ),
    _case("an option of another protocol", lambda p: _benchmark(p, "--fractions", "0.5"), "--fractions does not apply"),
    _case("an unknown protocol", lambda p: _benchmark(p, "--protocol", "kfold"), "unknown protocol 'kfold'", "'k-fold'"),
    _case(
        "a protocol without its target", lambda p: _benchmark(p, "--protocol", "k-shot"), "needs a target", "--target SPEC"
    ),
    _case(
        "a target for k-fold",
        lambda p: _benchmark(p, "--protocol", "k-fold", "--target", _other(p, "lab")),
        "takes no target",
    ),
    _case(
        "copies of the source as target",
        lambda p: _benchmark(p, "--target", f"folder:{p.cells('x/lab')}"),
        "12 image(s) of lab were trained on",
    ),
    _case(
        "two targets of one name",
        lambda p: _benchmark(p, "--target", _other(p, "x/lab"), "--target", _other(p, "y/lab")),
        "two sets are called 'lab'",
    ),
    _case(
        "more folds than images",
        lambda p: _benchmark(p, "--protocol", "k-fold", "--folds", "50"),
        "too small for 50 folds",
        "Add images",
    ),
    _case(
        "a backbone tested on cells",
        lambda p: _efficiency(p, "--backbone", "test_resnet", "--target", _of(p)),
        "a backbone has random weights",
    ),
    _case("a network that timm has not", lambda p: _efficiency(p, "--backbone", "resnot18"), "unknown backbone 'resnot18'"),
    _case(
        "a network with an odd size",
        lambda p: _efficiency(p, "--backbone", "test_resnet@big"),
        "'test_resnet@big'",
        "NAME@PX",
    ),
)

STUDIES = (
    _case("an unknown role", lambda p: _study(p, "--data", f"cell={_of(p)}"), "has no role 'cell'", "'cells'"),
    _case("a role without a name", lambda p: _study(p, "--data", _of(p)), "cannot read --data", "ROLE=SPEC"),
    _case(
        "two datasets in a role for one",
        lambda p: _study(p, "--data", f"cells={_of(p)}", "--data", f"cells={_of(p)}x"),
        "another number of datasets in the role cells",
    ),
    _case(
        "an unknown setting",
        lambda p: _study(p, "--data", f"cells={_of(p)}", "--set", "n_image=3"),
        "'n_image'",
        "'n_images'",
    ),
    _case("fewer images than the study uses", lambda p: _study(p, "--data", f"cells={_of(p)}"), "--set n_images=NUMBER"),
    _case(
        "data by role and by folder",
        lambda p: ("study", "list", "--root", p.cells(), "--data", "cells=folder:x"),
        "either --data ROLE=SPEC or --root DIR",
    ),
    _case("studies in no folder", lambda p: ("study", "list", "--root", p.folder / "gone"), "there is no folder"),
    _case(
        "a role that no study has", lambda p: ("study", "list", "--data", "cellz=folder:x"), "no study has a role 'cellz'"
    ),
    _case("a download of a set without one", lambda p: ("data", "download", "bccd", "--out", p.out), "bccd"),
    _case("an unknown laboratory", lambda p: ("data", "synthesize", p.out, "--laboratory", "lab_c"), "'lab_c'"),
)

CASES = (*MISSING, *SWAPPED, *TOGETHER, *BENCHMARKS, *STUDIES)
