"""Compile what jetsync uses of the standard library: stdlib_bytecode.py DESTINATION, by the image's interpreter.

The official Python images have no bytecode of the standard library, and a container that can't write there would
compile it at each start. All of it would be 12 MB; what jetsync imports, also inside of functions, is 5. The
files are never compared with their sources (unchecked), so no tool that rewrites time stamps makes them stale.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import py_compile
import sys
import sysconfig
from pathlib import Path

import agent

# What others import only once they run: the start of an environment, the loop's DNS, readers of a package's files.
LATE = (
    *("encodings.ascii", "encodings.idna", "encodings.utf_8_sig", "stringprep", "asyncio.staggered"),
    *("concurrent.futures.thread", "importlib.readers", "importlib.resources._adapters"),
)


def imported(file: Path) -> set[str]:
    """Every module that is named by an import in this file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def main() -> None:
    destination = Path(sys.argv[1])
    wanted = set(LATE).union(*(imported(file) for file in Path(agent.__path__[0]).rglob("*.py")))
    for name in sorted(wanted):
        try:
            importlib.import_module(name)
        except ImportError:  # a name in a module, or an extra that the image hasn't
            continue
    library = Path(sysconfig.get_path("stdlib"))
    for module in list(sys.modules.values()):
        source = Path(getattr(module, "__file__", None) or "/")
        if source.suffix == ".py" and source.is_relative_to(library) and "-packages" not in str(source):
            target = Path(importlib.util.cache_from_source(str(source)))
            py_compile.compile(
                str(source),
                str(destination / target.relative_to("/")),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


main()
