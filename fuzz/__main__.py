"""`python -m fuzz [--seconds N] [TARGET ...]`: every reader in turn, from its seeds and what earlier runs grew of them.

What is found lies in `out/fuzz/<target>/`, and the command ends with 1. `--one TARGET FILE` reads one such file again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "out" / "fuzz"
# Whose branches tell libFuzzer that a file is something new.
_INSTRUMENTED = ["cudaspeed.images", "cudaspeed.models", "cudaspeed.storage", "tifffile", "PIL"]
_SETTINGS = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (default: 600)")
    parser.add_argument("--child", metavar="TARGET", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("TARGET", "FILE"), help="read one file, and nothing else")
    arguments = parser.parse_args()
    if arguments.one:
        from .targets import TARGETS

        TARGETS[arguments.one[0]].read(Path(arguments.one[1]).read_bytes())
        return 0
    if arguments.child:
        _fuzz(arguments.child, arguments.seconds)
    return _run(arguments.targets, arguments.seconds)


def _run(names: list[str], seconds: int) -> int:
    """Each target in a process of its own: libFuzzer ends its process."""
    from .targets import TARGETS

    unknown = set(names) - set(TARGETS)
    if unknown:
        print(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    names = names or list(TARGETS)
    failed = []
    for name in names:
        share = max(1, seconds // len(names))
        print(f"== {name}, {share} s", flush=True)
        child = [sys.executable, "-m", "fuzz", "--child", name, "--seconds", str(share)]
        if subprocess.run(child, cwd=OUT.parent.parent, check=False).returncode:
            failed.append(name)
    print(f"== found something: {', '.join(failed)}; see {OUT}" if failed else "== nothing found")
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from .targets import TARGETS

    target = TARGETS[name]
    folder = OUT / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    settings = [f"-max_total_time={seconds}", *_SETTINGS, f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup([name, *settings], lambda data: target.read(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
