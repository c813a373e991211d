"""The command: `python -m benchmarks all`, or one benchmark with its own options. `--help` lists them."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.support.place import Place

NAMES = (
    "library",
    "large_file",
    "small_files",
    "start",
    "running",
    "latency",
    "renames",
    "distance",
    "state_rows",
)


def main() -> None:
    modules = {name: import_module(f"benchmarks.{name}") for name in NAMES}
    options = _parser(modules).parse_args()
    chosen = NAMES if options.benchmark == "all" else (options.benchmark,)
    with Place(options.dir) as place:
        for name in chosen:
            began = time.monotonic()
            _fill_in(modules[name], options)
            for report in modules[name].bench(place, options):
                report.show()
                if options.json:
                    report.write(options.json)
            print(f"  ({name} took {time.monotonic() - began:.0f} s)", flush=True)


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=int, help="how often each is done, in turn")
    common.add_argument("--dir", type=Path, help="where to work (default: the temporary directory); the disk matters")
    common.add_argument("--json", type=Path, metavar="FILE", help="append the figures as JSON lines")
    common.add_argument("--cache", type=Path, metavar="DIR", help="keep large prepared trees here for the next time")
    common.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    commands.add_parser("all", parents=[common], help="all of them, in their quick form")
    for name, module in modules.items():
        story = module.__doc__ or ""
        command = commands.add_parser(
            name,
            parents=[common],
            help=story.partition("\n")[0].replace("%", "%%"),
            description=story,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
    return parser


def _fill_in(module: ModuleType, options: argparse.Namespace) -> None:
    """What wasn't given on the command line is as the benchmark has it; with `all`, anew for each."""
    everything = options.benchmark == "all"
    for name, value in (module.QUICK if options.quick or everything else module.DEFAULTS).items():
        if everything or getattr(options, name, None) is None:
            setattr(options, name, value)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
