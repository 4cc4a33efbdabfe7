"""C++ compilers that go wrong: scripts around the real one, to be called by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

# What takes the place of our C++, by what is wrong with it.
SOURCES = {
    "traps": "__builtin_trap();",
    "reads nowhere": "*(volatile int*)8 = 1;",
    "aborts": "__builtin_abort();",
    "never returns": "for (volatile int i = 0;; ++i);",
    "exits": "exit(0);",
}


def compiler_of_bad_code(folder: Path, body: str, at: str) -> Path:
    """Its libraries do `body` `at` their "load", their "first call" or their "end". It notes its calls in `calls`."""
    bad = 'extern "C" void exit(int);\n'
    if at == "load":
        bad += f"__attribute__((constructor)) static void now() {{ {body} }}\n"
    elif at == "end":
        bad += f"__attribute__((destructor)) static void now() {{ {body} }}\n"
    calls = body if at == "first call" else ""
    bad += f"""
extern "C" int widest() {{ return 8; }}
extern "C" long scratch_bytes(const void*) {{ return 64; }}
extern "C" void convolve(...) {{ {calls} }}
extern "C" void attend(...) {{ {calls} }}
"""
    (folder / "bad.cpp").write_text(bad)
    return script(folder, f'case "$*" in *-shared*) exec {real()} -shared -fPIC -O0 {folder}/bad.cpp -o "$last";; esac')


def script(folder: Path, text: str) -> Path:
    """A compiler that does what the lines of shell say, and, if they do not end it, its work."""
    path = folder / "g++"
    path.write_text(f'#!/bin/sh\necho $$ >> {folder}/calls\nfor last; do :; done\n{text}\nexec {real()} "$@"\n')
    path.chmod(0o755)
    return path


def real() -> str | None:
    """The machine's own."""
    return shutil.which("g++")
