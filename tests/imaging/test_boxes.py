"""Boxes: parts joined in their order."""

from __future__ import annotations

import numpy as np

from hemalens.imaging.boxes import PLATELET, RED, WHITE, Boxes


def test_parts_are_joined_in_their_order() -> None:
    parts = [
        Boxes.of([WHITE, RED], [[0, 1, 2, 3], [4, 5, 6, 7]], [0.9, 0.8]),
        Boxes(),
        Boxes.of([PLATELET], [[1, 1, 2, 2]]),
    ]
    joined = Boxes.joined(iter(parts))
    assert joined.kinds.tolist() == [WHITE, RED, PLATELET]
    np.testing.assert_array_equal(joined.corners, [[0, 1, 2, 3], [4, 5, 6, 7], [1, 1, 2, 2]])
    assert joined.scores.tolist() == [0.9, 0.8, 1.0]
    assert len(Boxes.joined([])) == 0
    assert Boxes.joined([]).corners.shape == (0, 4)
