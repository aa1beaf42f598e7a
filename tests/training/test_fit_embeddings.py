"""Which training images show where the embeddings of each class lie."""

import hemalens.models._torchvision  # noqa: F401

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hemalens.training.fit import some_of_each


@given(classes=st.lists(st.integers(0, 4), min_size=1, max_size=200), most=st.integers(1, 20))
def test_each_class_has_as_many_as_asked_for_and_none_twice(classes: list[int], most: int) -> None:
    found = some_of_each(np.array(classes), most)
    assert len(set(found.tolist())) == len(found)
    for c in set(classes):
        assert sum(classes[i] == c for i in found) == min(most, classes.count(c))


def test_they_are_spread_over_the_laboratories_of_a_class() -> None:
    laboratory = np.repeat([0, 1], [300, 100])
    found = some_of_each(np.zeros(400, np.int64), 40)
    assert np.bincount(laboratory[found]).tolist() == [30, 10]
