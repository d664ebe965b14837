"""Connecting to Ray: the cluster that RAY_ADDRESS names, else a quiet one of this machine for as long as needed."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from lncis.config import Workers
from lncis.errors import StudyError

TRIAL_DRIVER = "trial_driver"
"""Custom resource of the head node. Trials take it instead of CPU, so that they cannot starve their own workers."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow holds the metrics; Tune need not write them again
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output prints a box even when told to be quiet
}

_LOCAL = {
    "RAY_AUTH_MODE": "disabled",  # or starting a cluster would write a token into the home folder
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each worker group, of use to machines in a cloud
    "RAY_worker_niceness": "0",  # Ray would let anything else on the machine go before its workers
}


def grows() -> bool:
    """Say whether Ray is a cluster, whose nodes may come and go and serve others too, and not one of our own."""
    return "RAY_ADDRESS" in os.environ


def room(workers: Workers) -> int:
    """Return how many more groups of workers have room on the nodes that are there now."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    each = {"CPU": workers.cpus_per_worker, "GPU": workers.gpus_per_worker}
    groups = (free.get(name, 0) / (workers.num_workers * count) for name, count in each.items() if count)
    return int(min(groups) + 1e-6)  # Ray counts to the fourth decimal


@contextmanager
def connected(workers: Workers, worker_groups: int, *, verbose: bool = False) -> Iterator[None]:
    """Within the block Ray runs and has room for `worker_groups` groups of workers; StudyError says what is missing."""
    address = os.environ.get("RAY_ADDRESS")
    if not ray.is_initialized():
        for name, value in (_QUIET if address else _QUIET | _LOCAL).items():
            os.environ.setdefault(name, value)
        # what passes through the object store is small: records and configs
        local: dict[str, Any] = {
            "resources": {TRIAL_DRIVER: 1000},
            "include_dashboard": False,
            "object_store_memory": 256 * 2**20,
        }
        _start(verbose, address or "local", {} if address else local)
        started_here = True
    else:
        started_here = False
    try:
        _check_room(workers, worker_groups)
        yield
    finally:
        if started_here:
            _shut_down()


def _shut_down() -> None:
    """Call ray.shutdown with the garbage collector at rest.

    Were another thread, such as MLflow's, to collect an ObjectRef while Ray's core worker ends, Ray 2.60 would end the
    whole process with code 1.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def _start(verbose: bool, address: str, options: dict[str, Any]) -> None:
    """Call ray.init; for a local Ray twice, as it gives its processes 30 s to come up on however busy a machine."""
    attempts = [1, 2] if address == "local" else [1]
    for attempt in attempts:
        try:
            ray.init(
                address=address,
                log_to_driver=verbose,
                configure_logging=True,
                logging_level=logging.INFO if verbose else logging.ERROR,
                **options,
            )
            return
        except Exception as error:  # Ray raises plain Exceptions too
            _shut_down()
            if attempt == attempts[-1]:
                local = address == "local"
                where = "on this machine" if local else f"at RAY_ADDRESS={address}"
                remedy = "try again" if local else "correct or unset RAY_ADDRESS"
                raise StudyError(f"no Ray {where}: {error}; {remedy}") from error


def _check_room(workers: Workers, worker_groups: int) -> None:
    """Raise StudyError if this cluster could never hold the workers; one that grows may, and is given the time."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    groups = worker_groups * workers.num_workers
    for resource, each, field in (
        ("CPU", workers.cpus_per_worker, "cpus_per_worker"),
        ("GPU", workers.gpus_per_worker, "gpus_per_worker"),
    ):
        needed = groups * each
        if not grows() and needed > there.get(resource, 0):
            raise StudyError(
                f"{groups} workers with {each:g} {resource} each need {needed:g} {resource}, the Ray cluster has "
                f"{there.get(resource, 0):g}; lower resources.max_concurrent_trials, num_workers or {field}"
            )
    if there.get(TRIAL_DRIVER, 0) < worker_groups + 2:  # the queue, the host, and more than there are relays
        raise StudyError(
            f"the Ray cluster has {there.get(TRIAL_DRIVER, 0):g} of the resource {TRIAL_DRIVER!r}, which is too little "
            f"for {worker_groups} trials at a time; start its head with "
            f"ray start --head --resources='{{\"{TRIAL_DRIVER}\": 1000}}'"
        )
