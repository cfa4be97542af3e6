"""Run by `make wheel` in an environment that holds the wheel and its dependencies, and nothing else."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

import aioasynq

package = files("aioasynq")
assert aioasynq.__version__ == version("aioasynq"), aioasynq.__version__
for name in aioasynq.__all__:
    getattr(aioasynq, name)
assert package.joinpath("py.typed").is_file()
scripts = [entry.name for entry in package.joinpath("rdb", "lua").iterdir()]
assert "dequeue.lua" in scripts, scripts
print(f"aioasynq {aioasynq.__version__}: {len(aioasynq.__all__)} names, {len(scripts)} Lua files, {package}")
