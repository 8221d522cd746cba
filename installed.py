"""The packages of requirements.txt: one line, in place of a traceback, if one is missing.

The rooms whose commands need them import this first.
"""

from importlib.util import find_spec

# By the name that is imported, where it is not the package's.
NAMES = {"yaml": "pyyaml"}
PACKAGES = ("torch", "numpy", "yaml", "tqdm", "tensorboardX", "filelock", "matplotlib")

if missing := [NAMES.get(name, name) for name in PACKAGES if find_spec(name) is None]:
    raise SystemExit(
        f"error: not installed: {', '.join(missing)}. Use the environment that has the packages "
        "(`make demo` and `make test` make .venv: . .venv/bin/activate), or make one: python3 -m "
        "venv .venv && . .venv/bin/activate && pip install -r requirements.txt"
    )
