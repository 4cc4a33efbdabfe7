"""How a command ends, for those who call it from a script."""

from __future__ import annotations

DONE, FAILED, BAD_USAGE, STOPPED = 0, 1, 2, 128
"""`STOPPED` and the signal's number: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP."""

EXPLAINED = """exit codes:
  0    all is done
  1    something failed, such as a picture, and the rest is done; or all is done, but could not be told; or Ctrl-C
       stopped a film, of which a part is done, and the same command goes on
  2    bad usage, and nothing is done
  129, 130, 143
       stopped by SIGHUP, Ctrl-C, SIGTERM; what was finished by then is there"""
