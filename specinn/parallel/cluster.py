"""Shards on many machines, through Dask: an existing scheduler, or jobs of a batch system (dask-jobqueue)."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from specinn.config import read_toml, structure
from specinn.errors import ConfigError, SpecinnError, near

__all__ = ["KINDS", "ClusterFile", "check", "spread"]

KINDS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}
_PATIENCE = 30.0  # seconds without a scheduler until the run stops


@attrs.frozen
class ClusterFile:
    """``--cluster FILE.toml``: ``jobs`` of the batch system ``kind``; ``options`` are keyword arguments of
    its class in dask-jobqueue. ``local`` is a cluster of processes on this machine, for trials.
    """

    kind: str
    jobs: int
    options: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> ClusterFile:
        """Raises ``ConfigError``."""
        settings = structure(read_toml(path), cls, str(path))
        if settings.kind not in KINDS:
            raise ConfigError(f"{path}: no kind {settings.kind!r}; {near(settings.kind, KINDS)}")
        if settings.jobs < 1:
            raise ConfigError(f"{path}: jobs {settings.jobs}: at least 1 is needed")
        return settings


def check(scheduler: str | None, cluster: str | Path | None) -> None:
    """Raises ``ConfigError`` where the options, if there are any, cannot be used; checked before the work
    starts."""
    if scheduler is None and cluster is None:
        return
    if scheduler is not None and cluster is not None:
        raise ConfigError("--scheduler names a running cluster, --cluster starts one: give only one of them")
    packages = ["distributed"]
    if cluster is not None and ClusterFile.read(cluster).kind != "local":
        packages.append("dask_jobqueue")
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ConfigError(
                f"{package}, which clusters need, is not installed: pip install 'specinn[cluster]'"
            ) from error


def spread(
    function: Callable[[str, int], Any],
    folder: str,
    numbers: Sequence[int],
    *,
    scheduler: str | None = None,
    cluster: str | Path | None = None,
    again: str,
) -> Generator[tuple[int, Any]]:
    """Each of ``numbers``, as it is done, with ``function(folder, number)`` of a worker of the cluster, or
    with None where workers died one after another over it. What remains when this is closed is cancelled.

    ``again`` says how to continue after an error. Raises ``SpecinnError``.
    """
    from dask.distributed import CancelledError, as_completed
    from distributed.comm.core import CommClosedError

    with _client(scheduler, cluster) as client, client.as_current():
        address, mark = client.scheduler.address, secrets.token_hex(4)
        gone = f"the scheduler at {address} is gone: {again}"
        futures = {
            client.submit(function, folder, number, key=f"specinn-{mark}-{number}", pure=False): number
            for number in numbers
        }
        try:
            for future in as_completed(futures):
                if future.status == "cancelled":
                    raise SpecinnError(gone)
                error = future.exception() if future.status == "error" else None
                if isinstance(error, SpecinnError):
                    raise error
                if type(error).__name__ == "KilledWorker":
                    yield futures[future], None
                elif error is not None:
                    raise SpecinnError(f"unexpected {type(error).__name__} in a worker: {error}; {again}")
                else:
                    yield futures[future], future.result()
                    future.release()
        except BaseException as error:
            with contextlib.suppress(Exception):  # there may be no recipient left
                client.cancel(list(futures), force=True)
            if isinstance(error, (CommClosedError, CancelledError)):
                raise SpecinnError(gone) from error
            raise


@contextlib.contextmanager
def _client(scheduler: str | None, path: str | Path | None) -> Iterator[Any]:
    from dask.distributed import Client

    with contextlib.ExitStack() as stack:
        where: Any = scheduler
        if path is not None:
            where = stack.enter_context(_start(ClusterFile.read(path)))
        try:
            if scheduler is not None:
                _wait_for_an_answer(scheduler)
            client = Client(where, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise SpecinnError(f"no scheduler answers at {scheduler or path}: {error}") from error
        stack.callback(_close, client)
        yield client


def _wait_for_an_answer(address: str) -> None:
    """Raises ``OSError`` if nothing answers at ``tcp://HOST:PORT``. A scheduler speaks first, at once; on one
    that accepts connections and is silent (stopped, or another service) a ``Client`` waits for ever.
    """
    protocol, _, endpoint = address.rpartition("://")
    host, _, port = endpoint.rpartition(":")
    if protocol not in ("", "tcp") or not host or not port.isdigit():
        return  # with TLS the client speaks first; the Client reports what is not an address
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
        try:
            if not connection.recv(1):
                raise ConnectionError("it closes the connection")
        except TimeoutError:
            raise TimeoutError(f"it accepts connections but does not answer for {_PATIENCE:g} s") from None


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):  # there may be no peer left
        client.close(timeout=5)


def _start(file: ClusterFile) -> Any:
    """A cluster of that many jobs; it ends with the run."""
    options: Mapping[str, Any] = file.options
    try:
        if file.kind == "local":
            from dask.distributed import LocalCluster

            return LocalCluster(
                **{
                    "n_workers": file.jobs,
                    "threads_per_worker": 1,
                    "dashboard_address": "127.0.0.1:0",
                    **options,
                }
            )
        import dask_jobqueue

        cluster = getattr(dask_jobqueue, KINDS[file.kind])(**options)
        cluster.scale(jobs=file.jobs)
        return cluster
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"the {file.kind} cluster could not be started: {error}") from error
