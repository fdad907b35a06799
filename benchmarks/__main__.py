"""The command `python -m benchmarks NAME …`, which runs the file NAME of this folder."""

from __future__ import annotations

import pkgutil
import runpy
import sys

import benchmarks
from contract.environment import prepare_process


def names() -> tuple[str, ...]:
    """List the benchmarks: every file of this folder but this one. Folders hold what benchmarks share."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    return tuple(sorted(name for name in modules if name != "__main__"))


def main() -> int:
    """Run the named benchmark; exit code 2 for an unknown name, else the benchmark's own."""
    prepare_process()
    if len(sys.argv) < 2 or sys.argv[1] not in names():
        print(
            f"usage: python -m benchmarks NAME [flags]; NAME is one of {', '.join(names())}", file=sys.stderr
        )
        return 2
    name = sys.argv.pop(1)
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
