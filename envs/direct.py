"""The direct dependencies, and those of the build, as pip reads them: from pyproject.toml.

python envs/direct.py          what a run needs
python envs/direct.py test     and the development tools: those of the extra `test`
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
direct = list(project["project"]["dependencies"])
for extra in sys.argv[1:]:
    direct += project["project"]["optional-dependencies"][extra]
print(*direct, *project["build-system"]["requires"], sep="\n")
