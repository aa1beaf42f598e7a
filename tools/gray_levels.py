"""How much single steps of image preparation change pixels: `python tools/gray_levels.py SPEC... [--images 30]`.

For each dataset: mean and largest difference, in gray levels, between two ways of one step. Resizing is to 224 px; cell
images have 128 px and the masks of the classical segmenter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.bundle.stages import ClassicalSegmenter
from hemalens.datasets import open_dataset
from hemalens.graphs.build import resize_graph
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig, cell_image, cut_source
from hemalens.taxonomy import AS_LABELLED

Pixels = NDArray[np.uint8]
Way = Callable[[Pixels], Pixels]
SIZE_PX = 224
PUBLISHED = CellImageConfig(cut_from="resized", connectivity=4, resampling="spline")


def in_graph(preprocessing: Preprocessing) -> Way:
    """The resize of a bundle's graph."""
    session = session_of(resize_graph(preprocessing).SerializeToString())
    return lambda image: np.round(session.run(None, {"image": image[None]})[0][0]).transpose(1, 2, 0).astype(np.uint8)


def by_pillow(filter_: Image.Resampling) -> Way:
    """Pillow's resize."""
    return lambda image: np.asarray(Image.fromarray(image).resize((SIZE_PX, SIZE_PX), filter_))


def cut(**changes: object) -> Way:
    """The cell image of BC-SAM, with some settings changed."""
    config, segmenter = PUBLISHED.model_copy(update=changes), ClassicalSegmenter()

    def way(image: Pixels) -> Pixels:
        source = cut_source(image, config)
        return cell_image(source, segmenter(source), config).pixels

    return way


def comparisons() -> Iterator[tuple[str, Way, Way]]:
    """Name and both ways of each step."""
    for name, filter_ in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        graph = in_graph(Preprocessing(size_px=SIZE_PX).model_copy(update={"interpolation": name}))
        yield f"{name}: the graph and Pillow", graph, by_pillow(filter_)
    sharp, smooth = (in_graph(Preprocessing(size_px=SIZE_PX, antialias=smooths)) for smooths in (False, True))
    yield "antialias", sharp, smooth
    published = cut()
    for change in ({"cut_from": "original"}, {"resampling": "bicubic"}, {"connectivity": 8}):
        yield f"cell image: {change}", published, cut(**change)


def main() -> None:
    """Print one line a dataset and step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--images", type=int, default=30)
    given = parser.parse_args()
    for spec in given.specs:
        records = open_dataset(spec, labels=AS_LABELLED).records
        chosen = np.unique(np.linspace(0, len(records) - 1, given.images).astype(int))
        images = [records[i].read() for i in chosen]
        for name, one, other in comparisons():
            apart = [np.abs(one(image).astype(int) - other(image)) for image in images]
            mean, largest = np.mean([each.mean() for each in apart]), max(each.max() for each in apart)
            print(f"{spec}, {len(images)} images, {name}: mean {mean:.2f}, largest {largest}")


if __name__ == "__main__":
    main()
