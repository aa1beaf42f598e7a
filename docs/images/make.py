"""Make the pictures of the documentation, from synthetic cells only: `python docs/images/make.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell

FOLDER = Path(__file__).parent
SIDE_PX = 104


def contact_sheet() -> None:
    """Five cells of each type in each laboratory, one row a type."""
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
    sheet.save(FOLDER / "synthetic_cells.jpg", quality=82)


if __name__ == "__main__":
    contact_sheet()
