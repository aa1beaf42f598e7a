"""Images that are none, or that cannot be read."""

from __future__ import annotations

from bad_input_cases import Case, Place


def _text_image(place: Place) -> tuple[object, ...]:
    cells = place.cells()
    place.file("cells/neutrophil/text.png", "no image")
    return ("train", "stub", "--train", f"folder:{cells}", "--out", place.out)


CASES = (
    Case("a text among the images", _text_image, ("1 of 13 images", "text.png", "is not a readable image"), stub=True),
)
