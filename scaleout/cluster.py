"""Ray as a farm uses it: one of its own on this machine, or one that is there, and workers on it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.checks import check_number
from ..api.errors import BadOptionError, first_line
from .actor import Worker
from .letting_in import check_listening, why_not_let_in, why_workers_never_run
from .shipping import ShippingWorker

_PACKAGE = Path(__file__).parents[1]
_HERE = "127.0.0.1"
_A_LITTLE = 1e-9  # 1 / 0.1 is not 10 exactly


@dataclass(frozen=True)
class FarmOptions:
    """`address`: of a Ray to join; "": one of its own. `actors`: workers; 0: as many as there is room for. Each takes
    `gpus_per_actor` of a GPU, where there are any and `device` is not the CPU, and `cpus_per_actor` threads. With
    `ship`, workers do not see the farm's folders. Raises `BadOptionError` on a value out of range."""

    address: str = ""
    actors: int = 0
    gpus_per_actor: float = 1.0
    cpus_per_actor: int = 1
    device: str = "auto"
    ship: bool = False

    def __post_init__(self) -> None:
        check_number("actors", self.actors, 0, 10_000)
        check_number("cpus per actor", self.cpus_per_actor, 1, 1024)
        if not 0 < self.gpus_per_actor <= 64 or (self.gpus_per_actor > 1 and self.gpus_per_actor % 1):
            raise BadOptionError(
                f"gpus per actor is {self.gpus_per_actor:g}; give 1, a share of one such as 0.5, or a whole number"
            )
        if "://" in self.address:
            raise BadOptionError(f"address is {self.address!r}; give host and port, such as 10.0.0.1:6379")
        if "," in self.device:
            raise BadOptionError(f"device is {self.device!r}; each worker has a device of its own, so give one kind")
        if ":" in self.device and self.device.partition(":")[2].isdigit():
            kind = self.device.partition(":")[0]
            raise BadOptionError(f"device is {self.device!r}; each worker has a device of its own, so give {kind}")


class Cluster:
    """Where workers run, and how many there is room for."""

    def __init__(self, ray: Any, options: FarmOptions) -> None:
        self.ray, self._options = ray, options

    def places(self, refused: int) -> int:
        """Workers that there is room for in all, or that were asked for; `refused` have taken some of it."""
        there = self.ray.cluster_resources()
        most = int(there.get("CPU", 0.0) // self._options.cpus_per_actor)
        if gpus := self._gpus(there):
            share = self._options.gpus_per_actor
            whole = int(gpus // share) if share >= 1 else int(1 / share + _A_LITTLE) * int(gpus)
            most = min(most, whole)
        return min(most - refused, self._options.actors or most)

    def told(self) -> str:
        """What it has, in words."""
        there = self.ray.cluster_resources()
        return f"{there.get('CPU', 0):g} processors and {there.get('GPU', 0):g} GPUs"

    def hire(self, *arguments: Any) -> Any:
        """A new worker, which comes to be where there is room. One that dies stays dead: another one is hired, which is
        as fast as to have Ray start it again, and answers as soon as it is there."""
        gpus = self._options.gpus_per_actor if self._gpus(self.ray.cluster_resources()) else 0
        actor = self.ray.remote(ShippingWorker if self._options.ship else Worker).options(
            num_cpus=self._options.cpus_per_actor, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        return actor.remote(*arguments)

    def dismiss(self, worker: Any) -> None:
        """End a worker, whatever it is at."""
        self.ray.kill(worker)

    def why(self, error: Exception) -> str:
        """What Ray tells of a worker's end, in a line."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        last = lines[-1] if lines else first_line(error)  # what was raised there, where something was
        return why_workers_never_run(last, self._options.address) or last

    def _gpus(self, there: dict[str, float]) -> float:
        return 0.0 if self._options.device == "cpu" else there.get("GPU", 0.0)


@contextmanager
def joined(ray: Any, options: FarmOptions) -> Iterator[Cluster]:
    """Within it Ray runs: its own, on this machine and for it alone, which ends with it, or that at the address. Raises
    `BadOptionError` where that cannot be joined."""
    if options.address:
        check_listening(options.address)
    on_termination = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = {
        "address": "local",
        "include_dashboard": False,
        "_node_ip_address": _HERE,
        "runtime_env": {"env_vars": {"PYTHONPATH": _python_path()}},
    }
    try:
        try:
            ray.init(**({"address": options.address} if options.address else own), **quiet)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {options.address}" if options.address else "on this machine"
            told = first_line(error)
            if options.address and isinstance(error, ConnectionError):
                told = why_not_let_in(told)
            raise BadOptionError(f"Ray {where} cannot be used: {told}") from error
        finally:
            # Ray puts its own in the place of ours, and it would end the process with what is done not noted.
            signal.signal(signal.SIGTERM, on_termination)
        yield Cluster(ray, options)
    finally:
        ray.shutdown()


def _python_path() -> str:
    """With the folder that this package lies in, which need not be installed."""
    return os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
