"""Which files a script's results depend on."""

import re
from pathlib import Path


def script_sources(script: Path) -> list[str]:
    """A script and the library modules that it imports, directly or not: what its results depend on.

    Found by reading import statements, wherever in the file they stand; nothing is imported.
    """
    library = script.parent / "pedalign"
    found: dict[Path, None] = {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"^\s*(?:from|import)\s+pedalign\.(\w+)", text, re.MULTILINE)
        for line in re.findall(r"^\s*from\s+pedalign\s+import\s+(.+)", text, re.MULTILINE):
            names += re.findall(r"\w+", line)
        waiting += [library / f"{name}.py" for name in names]
    return [str(path) for path in sorted(found)]
