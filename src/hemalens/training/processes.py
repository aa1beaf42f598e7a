"""Train in several processes of one machine: each takes its share of every batch, and gradients are averaged.

The processes compute what one would with the same batches: batch norms use the statistics of the whole batch, and the loss
of a share counts by its size. Results differ by rounding, and where a network or loss draws at random.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from hemalens import errors
from hemalens.errors import ConfigError, HemalensError
from hemalens.files import scratch_folder
from hemalens.graphs.runtime import n_cores
from hemalens.progress import is_quiet, set_quiet

LAST_WORDS_S = 2.0
"""How long the others may still report after one process has ended with an error."""

BATCH_NORM = inspect.signature(batch_norm)


def check_devices(devices: int, batch_size: int) -> None:
    """Raise `ConfigError` for more `devices` than this machine has, or a batch that they cannot share equally."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    most, kind = (gpus, "GPU(s)") if gpus else (n_cores(), "processor core(s)")
    if devices > most:
        raise ConfigError(
            "more devices than this machine has",
            expected=f"devices of 1 to {most}, the {kind} here",
            got=f"devices={devices}",
            remedy="Set fewer with --devices.",
        )
    if batch_size % devices:
        raise ConfigError(
            "the devices cannot share a batch equally",
            expected=f"a batch_size that {devices} divides",
            got=f"batch_size={batch_size}",
            remedy=f"Use --set batch_size={-(-batch_size // devices) * devices}, or another number of --devices.",
        )


def rank() -> int:
    """This process among those of a training; 0 where there is one."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def n_ranks() -> int:
    """Number of processes of this training."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def share_of_loss(weight: float, n_images: int) -> tuple[float, int]:
    """What the loss of this process's share of a batch counts, 1 for equal shares, and the images of the whole batch.

    `weight` and `n_images` are of the share: the sum of its images' weights in the loss, and their number.
    """
    if n_ranks() == 1:
        return 1.0, n_images
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor([weight, n_images], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return weight * n_ranks() / float(total[0]), int(total[1])


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, in their order; shares may differ in size."""
    if n_ranks() == 1:
        return rows
    device = torch.device("cuda", torch.cuda.current_device()) if torch.distributed.get_backend() == "nccl" else rows.device
    sizes = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(n_ranks())]
    torch.distributed.all_gather(sizes, torch.tensor(len(rows), device=device))
    padded = rows.new_zeros((int(max(sizes)), *rows.shape[1:]), device=device)
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)]).to(rows.device)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    found: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return found


class WholeBatchNorm(TorchFunctionMode):
    """Inside the block, batch norms that train use the statistics of all processes' images.

    The modules stay as they are, and so do checkpoints and export. Works on processors, where torch has no SyncBatchNorm.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is batch_norm:
            return _whole_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _whole_batch_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`torch.nn.functional.batch_norm`, with the same arguments, over the images of all processes."""
    given = BATCH_NORM.bind(input, *args, **kwargs)
    given.apply_defaults()
    if not given.arguments["training"]:
        return batch_norm(*given.args, **given.kwargs)
    names = ("running_mean", "running_var", "weight", "bias", "momentum", "eps")
    running_mean, running_var, weight, bias, momentum, eps = (given.arguments[name] for name in names)
    others = [0, *range(2, input.ndim)]
    shape = [1, -1] + [1] * (input.ndim - 2)
    x = input.float()
    sums = _summed(torch.cat([x.sum(others), x.new_tensor([x.numel() / x.shape[1]])]))
    n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = x - mean.view(shape)
    variance = _summed(centred.square().sum(others)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.detach().to(running_mean), momentum)
            running_var.lerp_((variance.detach() * n / (n - 1)).to(running_var), momentum)
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    found = centred * scale.view(shape)
    shifted: Tensor = found if bias is None else found + bias.view(shape)
    return shifted.to(input.dtype)


@dataclass(frozen=True, slots=True)
class _Processes:
    """The processes of a training: number, the file by which they meet, threads of each, and whether all are quiet."""

    n: int
    meeting: Path
    threads: int
    quiet: bool


def in_processes(n: int, work: Callable[..., None], *args: Any) -> None:
    """Run `work(*args)` in `n` processes that form one training; the error of one ends all, and is raised here.

    `work` and `args` pass through pipes. A program that trains so needs `if __name__ == "__main__":` around its calls.
    """
    context = torch.multiprocessing.get_context("spawn")
    with scratch_folder() as folder:
        how = _Processes(n, folder / "meeting", max(1, torch.get_num_threads() // n), is_quiet())
        pipes, processes = [], []
        try:
            for number in range(n):
                receiving, sending = context.Pipe(duplex=False)
                process = context.Process(target=_rank_main, args=(number, how, sending, work, args))
                process.start()
                sending.close()
                pipes.append(receiving)
                processes.append(process)
            _wait(processes, pipes)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(10)
                process.kill()


def _wait(processes: Sequence[Any], pipes: Sequence[Any]) -> None:
    """Wait for the end of all processes; raises the first error."""
    running = {process.sentinel: process for process in processes}
    while running:
        for ended in connection.wait(list(running)):
            process = running.pop(ended)  # type: ignore[index]
            process.join()
            if process.exitcode:
                raise _error(processes, pipes, process.exitcode)


def _error(processes: Sequence[Any], pipes: Sequence[Any], exitcode: int) -> BaseException:
    """The error that ended a training: the first one, since the others fail for want of the process that had it."""
    said: list[tuple[float, str, str]] = []
    open_pipes, until = list(pipes), time.monotonic() + LAST_WORDS_S
    while open_pipes and (ready := connection.wait(open_pipes, max(0.0, until - time.monotonic()))):
        for pipe in ready:
            open_pipes.remove(pipe)
            with suppress(EOFError, OSError):  # ended without a word
                said.append(pipe.recv())  # type: ignore[union-attr, call-arg, arg-type]
    killed = [process.exitcode for process in processes if (process.exitcode or 0) < 0]
    if killed or not said:
        got = _ending(killed[0] if killed else exitcode)
    else:
        _, name, text = min(said)
        if name == "KeyboardInterrupt":
            return KeyboardInterrupt()
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, HemalensError):
            return kind(text)
        got = f"{name}: {text}"
    return HemalensError(
        f"one of the {len(processes)} processes of the training ended",
        got=got,
        remedy="The same command resumes after the last whole epoch.",
    )


def _ending(exitcode: int) -> str:
    return f"signal {-exitcode}, as where memory runs out" if exitcode < 0 else f"exit code {exitcode}"


def _rank_main(number: int, how: _Processes, sending: Any, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    """One process of a training: joins the others, works, and reports its error."""
    _end_with_parent()
    set_quiet(how.quiet or number > 0)
    try:
        torch.set_num_threads(how.threads)
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        os.environ["LOCAL_RANK"] = str(number)  # Lightning starts no processes of its own
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(number)
            backend = "nccl"
        torch.distributed.init_process_group(backend, init_method=how.meeting.as_uri(), rank=number, world_size=how.n)
        work(*args)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        with suppress(OSError):
            sending.send((time.time(), type(error).__name__, str(error)))
        sys.stderr.flush()
        os._exit(1)


def _end_with_parent() -> None:
    """End this process where the command that started it was killed."""
    parent = torch.multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
