"""What a machine of the cluster must have: the folders of the run, under the names that they have for the user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hemalens.errors import InputError, one_line


def check_node(task: Mapping[str, Any]) -> None:
    """Work in the user's folder, from which relative paths start; raises `InputError` where this machine lacks a folder."""
    for name in ("cwd", "folder", "bundle"):
        if not os.path.isdir(task[name]):
            raise InputError(
                f"the machine {os.uname().nodename} of the cluster has no folder {one_line(task[name])}",
                expected="a disk that all machines share, under one name",
            )
    os.chdir(task["cwd"])
