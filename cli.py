"""The command line: `cudaspeed upscale`, `models`, `info`, `tune` and `cache`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from .api.errors import BadModelError, BadOptionError, CudaspeedError, first_line
from .commands.arguments import parser
from .commands.console import Console
from .commands.exit_codes import BAD_USAGE, FAILED, STOPPED
from .commands.signals import Stopped, stopping_on_signals

logger = logging.getLogger("cudaspeed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, as `exit_codes.EXPLAINED` has them. Raises nothing, but
    `SystemExit` where only help or the version was asked for."""
    with Console() as console:
        try:
            return console.settle(_carry_out(argv, console))
        except SystemExit as asked:  # by argparse
            raise SystemExit(console.settle(int(asked.code or 0))) from None


def _carry_out(argv: Sequence[str] | None, console: Console) -> int:
    console.json = "--json" in (sys.argv if argv is None else argv)  # for what the parser itself has to say
    try:
        with stopping_on_signals():
            arguments = parser().parse_args(argv)
            console.set_up(arguments.json, arguments.verbose)
            return arguments.run(arguments, console)
    except (BadOptionError, BadModelError) as error:
        console.fail(str(error))
        return BAD_USAGE
    except KeyboardInterrupt as error:
        console.complain("cudaspeed: stopped")
        return STOPPED + (error.number if isinstance(error, Stopped) else signal.SIGINT)
    except (CudaspeedError, OSError) as error:
        console.fail(str(error))
        return FAILED
    except Exception as error:  # a fault of ours: told in one line, as any other end
        logger.debug("unexpected", exc_info=True)
        console.fail(f"unexpected {type(error).__name__}: {first_line(error)}; --verbose tells more")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
