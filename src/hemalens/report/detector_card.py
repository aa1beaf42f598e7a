"""The card of a detector: use, data, what it was not trained on, figures, training.

It is rendered from a detector's manifest and the reports of its tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hemalens.bundle.default_model import USE
from hemalens.bundle.detector import DetectorManifest
from hemalens.errors import ReportError
from hemalens.evaluation.formatting import count, listed, visible
from hemalens.evaluation.results import Detection
from hemalens.report.model_card import markdown_table
from hemalens.report.tables import interval_cell

SEEN_WORDS = {
    "left out": "fields seen in training were left out of this test",
    "none": "none of these fields was seen in training",
    "unknown": "whether these fields were seen in training is unknown",
}


def detector_card(manifest: DetectorManifest, tests: Sequence[Detection], remarks: Sequence[str] = ()) -> str:
    """The card in Markdown; `tests` are of this detector, and `remarks` further notes on the figures.

    Raises `ReportError` without any test, and for a test of another detector.
    """
    shown = list({(test.target, test.laboratory): test for test in tests if not test.together}.values())
    if not shown:
        raise ReportError("the card has no figures", expected="reports that `hemalens evaluate` wrote of this detector")
    trained_on = " + ".join(entry.name for entry in manifest.data if entry.role == "train")
    for test in shown:
        if (test.detector, test.source) != (manifest.method, trained_on):
            raise ReportError(
                "a report tests another detector",
                expected=f"{manifest.method} trained on {visible(trained_on)}",
                got=f"{visible(test.detector)} trained on {visible(test.source)}",
            )
    sections = [
        f"# Model card: {manifest.method} ({visible(str(manifest.config.get('backbone', '')))})\n\n{USE.capitalize()}.",
        f"## Intended use\n\n{_intended(manifest)}",
        f"## Data\n\n{_data(manifest)}",
        f"## Not trained on\n\n{_left_out(manifest)}",
        f"## Figures\n\n{_figures(shown, remarks)}",
        f"## Training\n\n{_made(manifest)}",
    ]
    return "\n\n".join(sections) + "\n"


def _intended(manifest: DetectorManifest) -> str:
    return (
        f"Finds {listed([f'{kind}s' for kind in manifest.n_boxes])} in fields of stained blood smears, and the nucleus of "
        "each white cell. A nucleated red cell is found as a white cell; a classifier tells them apart. It is not a "
        "medical device: a morphologist reviews what it finds. Scores differ between laboratories. Before use in a "
        "laboratory that is not in the tables below, test it there (`hemalens evaluate`) on fields with boxes."
    )


def _data(manifest: DetectorManifest) -> str:
    rows = []
    for entry in manifest.data:
        boxes = ", ".join(f"{kind}s {count(n)}" for kind, n in entry.class_counts.items())
        drawn = " (synthetic)" if entry.synthetic else ""
        rows.append([f"{visible(entry.name)}{drawn}", entry.role, boxes, entry.licence, visible(entry.citation)])
    laboratories = [[visible(name), count(n)] for name, n in manifest.laboratories.items()]
    nuclei = manifest.nuclei
    notes = [
        f"Nuclei: {count(nuclei['n_with_nucleus'])} of {count(nuclei['n_white'])} white cells have a nucleus to learn "
        f"from, {count(nuclei['n_masked'])} of these from masks. The others are found by the classical rule within the "
        "cell's box."
    ]
    return "\n\n".join(
        [
            markdown_table(["set", "part", "boxes", "licence", "attribution"], rows),
            markdown_table(["laboratory", "training fields"], laboratories),
            *notes,
        ]
    )


def _left_out(manifest: DetectorManifest) -> str:
    lines = [
        f"- {visible(name)}: {count(n)} field(s) of the sets above, kept from the training for the tests."
        for name, n in manifest.left_out.items()
    ]
    names = listed(list(map(visible, manifest.laboratories)))
    lines.append(f"- Any laboratory but {names}: other stains, microscopes, cameras and magnifications.")
    lines += [
        f"- {visible(entry.name)}: {count(n)} field(s), {reason}."
        for entry in manifest.data
        for reason, n in entry.dropped.items()
        if "laboratory" not in reason
    ]
    return "\n".join(lines)


def _figures(tests: Sequence[Detection], remarks: Sequence[str]) -> str:
    head = ["laboratory", "fields", "cells", "AP50", "recall", "precision"]
    kinds = dict.fromkeys((each.kind, each.classifier) for test in tests for each in test.kinds)
    parts = []
    for kind, classifier in kinds:
        rows = [
            [
                visible(test.laboratory),
                count(each.n_complete),
                count(each.n_boxes),
                *(str(interval_cell(value)) for value in (each.ap50, each.recall_centre, each.precision_centre)),
            ]
            for test in tests
            for each in test.kinds
            if (each.kind, each.classifier) == (kind, classifier)
        ]
        behind = f", after the classifier {visible(classifier)}" if classifier else ""
        parts.append(f"{kind.capitalize()}s{behind}:\n\n{markdown_table(head, rows)}")
    scores = {each.kind: each.operating_score for test in tests for each in test.kinds}
    above = listed([f"{score:g} ({kind}s)" for kind, score in scores.items()])
    notes = [
        "In parentheses: 95 % intervals. Recall and precision count a cell as found if the centre of a box with a score "
        f"above {above} lies in its annotated box. AP50: average precision at an IoU "
        "of 0.5.",
        *(f"{visible(test.laboratory)}: {SEEN_WORDS[test.seen]}." for test in tests),
        *map(visible, remarks),
    ]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in dict.fromkeys(notes))])


def _made(manifest: DetectorManifest) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    config = manifest.config
    lines: Iterable[str] = [
        f"- Method `{manifest.method}`, {count(manifest.n_parameters)} weights, written {manifest.created}.",
        f"- {config['epochs']} epochs of {config['windows_per_epoch']} windows of {config['side_px']} px, "
        "drawn from all laboratories equally often.",
        f"- Scores of graph and network differ by {manifest.parity:.2g} at most, on training fields at several sizes.",
        f"- Versions: {versions or 'unknown'}.",
        "- All settings, and the digests of all fields seen in training, are in the same folder.",
    ]
    return "\n".join(lines)
