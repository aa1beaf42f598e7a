"""Settings of a bulk run: addresses, and sizes of shards that follow from the number of images alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.bulk.options import LARGEST_SHARD, SMALLEST_SHARD, BulkOptions, check_address, shard_size_of
from hemalens.errors import InputError


@given(st.integers(1, 50_000_000))
def test_shards_are_whole_batches_of_bounded_size(n: int) -> None:
    size = shard_size_of(n, BulkOptions())
    assert size % 256 == 0, "a monitor observes 256 images together, also on one machine"
    assert SMALLEST_SHARD <= size <= LARGEST_SHARD
    assert size in (SMALLEST_SHARD, LARGEST_SHARD) or 32 <= -(-n // size) <= 64


def test_a_size_of_ones_own_stays() -> None:
    assert shard_size_of(10, BulkOptions(shard_size=3)) == 3


@given(st.text(max_size=12))
def test_an_address_is_auto_or_host_and_port(text: str) -> None:
    host, _, port = text.rpartition(":")
    known = text == "auto" or (bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 65536)
    if known:
        check_address(text)
    else:
        with pytest.raises(InputError, match="--address"):
            check_address(text)


@pytest.mark.parametrize("address", ["auto", "head:6379", "10.0.0.5:1", "[::1]:6379"])
def test_addresses(address: str) -> None:
    assert BulkOptions(address).check().address == address


@pytest.mark.parametrize("address", ["", "head", "head:", ":6379", "ray://head:10001", "head:0", "head:70000", "head:6e3"])
def test_no_addresses(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        BulkOptions(address).check()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (BulkOptions(shard_size=0), "--shard-size"),
        (BulkOptions(shard_size=10**9), "--shard-size is too large"),
        (BulkOptions(n_actors=0), "--n-actors"),
        (BulkOptions(n_actors=True), "--n-actors"),
    ],
)
def test_numbers_out_of_range(options: BulkOptions, says: str) -> None:
    with pytest.raises(InputError, match=says):
        options.check()
