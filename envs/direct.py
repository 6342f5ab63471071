"""The direct dependencies, those of the tests and of the build with them, as pip reads them: from pyproject.toml."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
direct = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["test"]]
print(*direct, *project["build-system"]["requires"], sep="\n")
