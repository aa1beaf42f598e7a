"""Settings of a bulk run: where Ray runs, the size of a shard, the number of actors."""

from __future__ import annotations

from dataclasses import dataclass

from hemalens.config import check_whole
from hemalens.errors import InputError, one_line
from hemalens.graphs.runtimes import RuntimeChoice

SHARDS_ALIKE, SMALLEST_SHARD, LARGEST_SHARD = 64, 256, 4096
"""Without a size of your own: so many shards, but of so many images each."""
LARGEST_OWN = 1_000_000


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """Where and how a bulk run works.

    `address` is "HOST:PORT" of a Ray cluster or "auto", None for a cluster of this machine alone that ends with the run.
    `shard_size`: images a shard, None for a size by the number of images. `n_actors` work at once, None for one a processor
    of the cluster. `runtime` computes the network of a prediction, as in `Predictor`; a count has its own.
    """

    address: str | None = None
    shard_size: int | None = None
    n_actors: int | None = None
    runtime: RuntimeChoice = "onnxruntime"

    def check(self) -> BulkOptions:
        """The options; raises `InputError` for values that cannot be used."""
        if self.shard_size is not None:
            check_whole(self.shard_size, "--shard-size", least=1)
            if self.shard_size > LARGEST_OWN:
                raise InputError("--shard-size is too large", expected=f"at most {LARGEST_OWN:,}", got=str(self.shard_size))
        if self.n_actors is not None:
            check_whole(self.n_actors, "--n-actors", least=1)
        if self.address is not None:
            check_address(self.address)
        return self


DEFAULTS = BulkOptions()


def check_address(address: str) -> None:
    """Raise `InputError` unless the text is "auto" or HOST:PORT."""
    host, _, port = address.rpartition(":")
    if address == "auto" or (host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
        return
    raise InputError(
        f"cannot read --address {one_line(address)}",
        expected="HOST:PORT of the head node, as in 10.0.0.5:6379, or auto on a node of the cluster",
    )


def shard_size_of(n_images: int, options: BulkOptions) -> int:
    """Images a shard: that of the options, otherwise a multiple of `SMALLEST_SHARD` by the number of images alone."""
    if options.shard_size is not None:
        return options.shard_size
    wanted = -(-n_images // SHARDS_ALIKE // SMALLEST_SHARD) * SMALLEST_SHARD
    return min(max(wanted, SMALLEST_SHARD), LARGEST_SHARD)
