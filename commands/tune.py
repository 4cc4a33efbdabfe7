"""`cudaspeed tune`: what is the fastest for a model on this machine, found out at once and kept."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from ..api.errors import BadOptionError, CudaspeedError, first_line
from ..api.options import UpscaleOptions
from ..models.loader import check_file, load_model
from .console import Console
from .devices import check_device
from .exit_codes import DONE, FAILED
from .options import options_of, parse_size

logger = logging.getLogger("cudaspeed")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Tune one model after the other; of each a record or a line says what was found."""
    options = options_of(UpscaleOptions, arguments)
    size = parse_size(arguments.size) if arguments.size else None
    for model in arguments.models:
        check_file(model)
    check_device(arguments.device, arguments.reserve_vram)

    from ..host.standalone import StandaloneContext  # with torch, now that nothing is wrong with what was asked for
    from ..upscale_engine import tune

    code = DONE
    for model in arguments.models:
        began = time.perf_counter()
        record: dict[str, object] = {"model": model}
        try:
            with console.progress(Path(model).name) as bar:
                context = StandaloneContext(
                    arguments.device, on_say=bar.set_postfix_str, reserve_vram=arguments.reserve_vram
                )
                record["found"] = told = tune(load_model(model), size, options, context)
        except BadOptionError:  # which holds for all of them
            raise
        except Exception as error:  # one model must not cost the others
            logger.debug("%s", model, exc_info=True)
            expected = isinstance(error, CudaspeedError)
            record["error"] = told = (
                str(error) if expected else f"unexpected {type(error).__name__}: {first_line(error)}"
            )
            code = FAILED
        seconds = record["seconds"] = time.perf_counter() - began
        console.tell(record, f"{model}: {told} ({seconds:.1f} s)")
    return code
