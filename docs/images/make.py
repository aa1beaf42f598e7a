"""Draw the figures of the documentation: `python docs/images/make.py`.

The contact sheet shows synthetic cells, `field.png` a synthetic field with its drawn cells boxed as in an overlay. The
charts show the tables in `docs/reference/results/data/`; no number is typed
here. The same tables give the same bytes.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from hemalens import predict
from hemalens.bundle.default_model import default_model_path
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell, synthesize
from hemalens.datasets.synthetic.smear import PLATELET, RED_CELL, WHITE_TYPES, SmearConfig, draw_fields
from hemalens.detection.border import counted, cut_by_border
from hemalens.imaging.boxes import PLATELET as PLATELET_KIND
from hemalens.imaging.boxes import RED, WHITE, Boxes
from hemalens.runs.counting.decide import AT_BORDER
from hemalens.runs.counting.find import FoundCell
from hemalens.runs.counting.pictures import colours_of, overlay

FOLDER = Path(__file__).parent
DATA = FOLDER.parent / "reference" / "results" / "data"
SIDE_PX = 104
TARGETS = ("JTSC", "CellaVision-100", "BCCD crops")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hemalens",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
COLOURS = ("#4c2a85", "#d1603d", "#2a7f62", "#3a6ea5", "#b08900", "#7a7a7a")
Row = dict[str, str]


def contact_sheet(folder: Path = FOLDER) -> None:
    """Five synthetic cells of each type in each laboratory, one row a type."""
    width, top, left = SIDE_PX * 10 + 16, 22, 96
    sheet = Image.new("RGB", (left + width, top + SIDE_PX * len(CELL_TYPES)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (name, laboratory) in enumerate(LABORATORIES.items()):
        x0 = left + column * (SIDE_PX * 5 + 16)
        pen.text((x0, 5), name, fill="black")
        for row, cell_type in enumerate(CELL_TYPES):
            pen.text((4, top + row * SIDE_PX + SIDE_PX // 2 - 6), cell_type, fill="black")
            for i in range(5):
                image, _ = draw_cell(cell_type, laboratory, np.random.default_rng([row, column, i]))
                small = Image.fromarray(image).resize((SIDE_PX - 2, SIDE_PX - 2), Image.Resampling.LANCZOS)
                sheet.paste(small, (x0 + i * SIDE_PX, top + row * SIDE_PX))
    sheet.save(folder / "synthetic_cells.jpg", quality=82)


def field(folder: Path = FOLDER) -> None:
    """A synthetic field with its drawn cells as `hemalens count` shows them, cells cut by the border included."""
    smear = SmearConfig(white_cells=9, platelets=6, width_px=720, height_px=540)
    (drawn,) = draw_fields(LABORATORIES["lab_b"], smear, 1, np.random.default_rng(3))
    kinds = [{RED_CELL: RED, PLATELET: PLATELET_KIND}.get(code, WHITE) for code in drawn.cell_types]
    boxes = Boxes.of(kinds, drawn.corners, [1.0] * len(kinds))
    cut, counts = cut_by_border(boxes, drawn.image.shape), counted(boxes, drawn.image.shape)
    cells = [
        FoundCell(
            i,
            kind,
            tuple(float(side) for side in drawn.corners[i]),
            1.0,
            cut=bool(cut[i]),
            at_border=not counts[i],
            label=drawn.cell_types[i] if kind == WHITE else None,
            reason="" if counts[i] else AT_BORDER,
        )
        for i, kind in enumerate(kinds)
    ]
    shown = Image.fromarray(overlay(drawn.image, cells, colours_of(WHITE_TYPES)))
    # 128 colours: a third of the bytes
    shown.quantize(128, dither=Image.Dither.NONE).save(folder / "field.png", optimize=True)


def failures(folder: Path = FOLDER) -> None:
    """Synthetic cells that the default model answers wrongly, the surest first: at most two a pair of types."""
    columns, n_rows, side, caption = 8, 3, 124, 62
    wrong: list[tuple[float, Image.Image, tuple[str, str], str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        cells, table = Path(scratch) / "cells", Path(scratch) / "predictions.csv"
        synthesize(cells, n_per_class=12, seed=5)
        for laboratory in LABORATORIES:
            predict(default_model_path(), str(cells / laboratory / "images"), out=table, overwrite=True)
            with open(table, encoding="utf-8", newline="") as handle:
                rows = list(csv.DictReader(handle))
            for row in rows:
                path = Path(row["path"])
                if row["label"] in ("", path.parent.name):
                    continue
                pair, p = (path.parent.name, row["label"]), float(row["probability"])
                wrong.append((p, Image.open(path).convert("RGB"), pair, row["review"] or "not marked"))
    kept: dict[tuple[str, str], int] = {}
    sheet = Image.new("RGB", (columns * side, n_rows * (side + caption)), "white")
    pen, i = ImageDraw.Draw(sheet), 0
    for p, image, pair, review in sorted(wrong, key=lambda each: -each[0]):
        kept[pair] = kept.get(pair, 0) + 1
        if kept[pair] > 2 or i == columns * n_rows:
            continue
        x, y = i % columns * side, i // columns * (side + caption)
        sheet.paste(image.resize((side - 6, side - 6), Image.Resampling.LANCZOS), (x + 3, y + 3))
        said = f"drawn: {pair[0]}\n{pair[1]}\np {p:.2f}\n{review}".replace("_", " ")
        pen.multiline_text((x + 4, y + side), said, fill="black", spacing=1)
        i += 1
    sheet.quantize(128, dither=Image.Dither.NONE).save(folder / "default_model_failures.png", optimize=True)


def rows_of(name: str) -> list[Row]:
    """The rows of a table of results, by column name."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def next_laboratory() -> Figure:
    """Balanced accuracy of a choice of models in three laboratories that they were not trained on."""
    shown = {
        "linear_probe": "linear_probe",
        "finetune": "finetune",
        "robust": "robust, centred crop",
        "1 labelled cell a type": "+ 1 labelled cell a type",
        "10 labelled cells a type": "+ 10 labelled cells a type",
        "finetuned on 10 labelled cells a type, imagenet": "+ 10 cells a type, all weights",
    }
    table = {(row["model"], row["laboratory"]): row for row in rows_of("next_laboratory.csv")}
    figure, axes = _panels(1, 3, (9.2, 2.9))
    for axis, target in zip(axes, TARGETS, strict=True):
        for y, model in enumerate(shown):
            row = table[model, target]
            value, spread = float(row["balanced_accuracy"]), float(row["sd"])
            colour = COLOURS[0] if y < 3 else COLOURS[2]
            axis.errorbar(value, -y, xerr=spread, fmt="o", color=colour, capsize=2, markersize=5)
        axis.axvline(0.25, color=COLOURS[5], linestyle=":", linewidth=1)
        axis.set(title=target, xlim=(0.15, 1.0), xlabel="balanced accuracy", ylim=(-len(shown) + 0.5, 0.5))
        axis.set_yticks(range(0, -len(shown), -1), shown.values())
        axis.grid(axis="x", color="#e4e4e4")
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


def labelling_curve() -> Figure:
    """Balanced accuracy against the number of labelled cells, by the strategy that chose them."""
    names = {name: name for name in ("random", "typical", "even")}
    return _curves(rows_of("labelling_curve.csv"), "strategy", "labelled_cells", names, "labelled cells")


def bloodshot_k_shot() -> Figure:
    """Balanced accuracy of class means against k, for the embedders of the BloodShot study."""
    random = ("softmax, random", "aam+consistency, random")
    pretrained = ("softmax, ImageNet", "aam, ImageNet, augmented", "frozen ImageNet", "all from ImageNet")
    names = {name: name for name in (*random, *pretrained)}
    table = [row for row in rows_of("bloodshot_k_shot.csv") if row["k"] != "all"]
    return _curves(table, "embedder", "k", names, "labelled cells a class (k)")


def bloodshot_classifiers() -> Figure:
    """Balanced accuracy with ten cells a class: embedder by classifier, one heat map a laboratory."""
    table = rows_of("bloodshot_classifiers.csv")
    figure, axes = _panels(1, 3, (11.5, 4.0))
    for axis, target in zip(axes, TARGETS, strict=True):
        _heat_map(axis, [row for row in table if row["laboratory"] == target], down="embedder", across="classifier")
        axis.set_title(target)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


def all_methods() -> Figure:
    """Balanced accuracy of seven methods, one heat map a source."""
    table = rows_of("all_methods.csv")
    figure, axes = _panels(1, 4, (11.5, 3.2))
    for axis, source in zip(axes, dict.fromkeys(row["source"] for row in table), strict=True):
        rows = [row for row in table if row["source"] == source]
        rows = [{**row, "target": "held-out folds" if row["target"] == source else row["target"]} for row in rows]
        _heat_map(axis, rows, down="method", across="target")
        axis.set_title(f"trained on {source}")
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


def bc_sam() -> Figure:
    """Balanced accuracy of representation and head, one heat map a pair of training and test data."""
    table = [row for row in rows_of("bc_sam.csv") if row["head"]]
    for row in table:
        if row["autoencoder_saw"]:
            row["representation"] += f", {row['autoencoder_saw']}"
    figure, axes = _panels(1, 4, (11.5, 3.4))
    for axis, pair in zip(axes, dict.fromkeys((row["train"], row["test"]) for row in table), strict=True):
        rows = [row for row in table if (row["train"], row["test"]) == pair]
        _heat_map(axis, rows, down="representation", across="head")
        axis.set_title(f"{pair[0]} → {pair[1]}")
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


def _panels(n_rows: int, n_columns: int, inches: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=inches, layout="constrained")
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False).flat)


def _curves(table: Sequence[Row], group: str, x: str, names: dict[str, str], label: str) -> Figure:
    """One panel a laboratory, one line a group, intervals as bands where the table has them."""
    figure, axes = _panels(1, 3, (9.2, 3.4))
    for axis, target in zip(axes, TARGETS, strict=True):
        for (name, shown), colour in zip(names.items(), COLOURS, strict=False):
            rows = [row for row in table if row["laboratory"] == target and row[group] == name]
            at = [float(row[x]) for row in rows]
            scores = [float(row["balanced_accuracy"]) for row in rows]
            axis.plot(at, scores, "o-", color=colour, markersize=3.5, label=shown)
            if rows and rows[0].get("low"):
                limits = ([float(row[bound]) for row in rows] for bound in ("low", "high"))
                axis.fill_between(at, *limits, color=colour, alpha=0.05, linewidth=0)
        axis.set(title=target, xlabel=label, ylim=(0.2 if group == "embedder" else 0.45, 0.95))
        axis.grid(color="#e4e4e4")
    axes[0].set_ylabel("balanced accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _heat_map(axis: Axes, table: Sequence[Row], *, down: str, across: str) -> None:
    """Balanced accuracy in cells, the number in each; rows and columns in the order of the table."""
    low, high = 0.2, 0.95
    names, columns = list(dict.fromkeys(row[down] for row in table)), list(dict.fromkeys(row[across] for row in table))
    values = np.full((len(names), len(columns)), np.nan)
    for row in table:
        values[names.index(row[down]), columns.index(row[across])] = float(row["balanced_accuracy"])
    axis.imshow(values, cmap="Purples", vmin=low, vmax=high, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            colour = "white" if values[i, j] > (low + high) / 2 + 0.03 else "black"
            axis.text(j, i, f"{values[i, j]:.3f}".lstrip("0"), ha="center", va="center", color=colour, fontsize=6.5)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)


CHARTS: dict[str, Callable[[], Figure]] = {
    chart.__name__: chart
    for chart in (
        next_laboratory,
        labelling_curve,
        bloodshot_k_shot,
        bloodshot_classifiers,
        all_methods,
        bc_sam,
    )
}


def draw(name: str, folder: Path = FOLDER) -> Path:
    """Write the chart `name` as SVG and return its path."""
    path = folder / f"{name}.svg"
    with mpl.rc_context(STYLE):
        CHARTS[name]().savefig(path, metadata={"Date": None}, facecolor="white")
    return path


if __name__ == "__main__":
    contact_sheet()
    field()
    failures()
    for chart_name in CHARTS:
        draw(chart_name)
