"""One input after the other, each with a record of its own: what `cudaspeed upscale` and `latent` have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.errors import BadModelError, BadOptionError, CudaspeedError, first_line
from ..images.folders import Identity, identity
from ..images.jobs import Job, Plan, Refused, why_unwritable
from ..images.naming import folded
from ..images.whole import sweep_leftovers
from ..memory import free_host_bytes
from ..storage.location import compiled_folder
from ..upscale_engine import finish_learning
from .console import Console
from .exit_codes import DONE, FAILED
from .records import failed

logger = logging.getLogger("cudaspeed")

Record = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """The steps of a plan. `is_done` tells whether there is nothing to do for one, `upscale` carries one out and gives
    its record, `less_memory` says what helps where the memory ran out."""

    plan: Plan
    is_done: Callable[[Job], bool]
    upscale: Callable[[Job], Record]
    less_memory: str

    def run(self, console: Console, line: Callable[[Record], str]) -> int:
        """Carry out what can be, telling of each its record or its `line`; return the exit code."""
        for folder in {job.target.parent for job in self.plan.jobs}:
            sweep_leftovers(folder)
        code = DONE
        for record in self._records():
            if "error" in record:
                code = FAILED
                logger.error(record["error"])
            if console.json or "error" not in record:
                console.tell(record, line(record))
        with console.progress("what suits the model here") as bar:
            bar.set_postfix_str("is being found out, for a twentieth of the work at most", refresh=False)
            finish_learning()
        return code

    def _records(self) -> Iterator[Record]:
        """Of each step the JSON record, once it is done, skipped or has failed. What every other input would meet as
        well is raised."""
        there: dict[str, tuple[Identity | None, Path]] = {}
        for step in self.plan.steps:
            if isinstance(step, Refused):
                yield failed(step.source, step.reason)
                continue
            # Where letter case makes no other name, two targets can turn out to be one file.
            known, writer = there.get(folded(step.target), (None, step.source))
            if known and known == identity(step.target):
                yield failed(step.source, f"{writer} became {step.target} already; use two outputs")
                continue
            if self.is_done(step):
                record = {"input": str(step.source), "output": str(step.target), "skipped": True}
            else:
                record = self._attempt(step)
            if "error" not in record:
                there[folded(step.target)] = identity(step.target), step.source
            yield record

    def _attempt(self, job: Job) -> Record:
        try:
            return self.upscale(job)
        except (BadOptionError, BadModelError):
            raise
        except CudaspeedError as error:
            return failed(job.source, str(error), job.target)
        except MemoryError as error:
            logger.debug("%s", job.source, exc_info=True)
            free = f"{free_host_bytes() / 2**30:.2f} GiB are free; {self.less_memory}"
            return failed(job.source, f"the memory ran out ({first_line(error)}), {free}", job.target)
        except Exception as error:  # what breaks inside torch on one input must not cost the others
            logger.debug("%s", job.source, exc_info=True)
            return failed(job.source, f"unexpected {type(error).__name__}: {first_line(error)}", job.target)


def warn_of_unwritable_cache() -> None:
    """Say that nothing is learned of models here, where that is so."""
    reason = why_unwritable(compiled_folder())
    if reason:
        logger.warning(
            "what is compiled and found out about models is not kept: %s; set CUDASPEED_CACHE_DIR to a folder of "
            "your own",
            reason,
        )
