"""Print how large the package is, how its rooms hang together, and how many functions one call runs.

    python tests/support/code_metrics.py [SOURCE ...]

SOURCE is a folder that holds `comfy_gpu_offload`, by default this repository's `src`. With two of them, say one
of an older checkout, their figures stand side by side.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "comfy_gpu_offload"
_CALLS = 12

# Run in a process of its own, since it imports the package that is measured.
_PROBE = """
import sys
from pathlib import Path
import torch
import comfy_gpu_offload
from comfy_gpu_offload.digits.conditioning import conditioning
from comfy_gpu_offload.digits.latent import CHANNELS, LATENT_SIZE

home = str(Path(comfy_gpu_offload.__file__).parent)
session = comfy_gpu_offload.connect(sys.argv[1])
model = session.model(session.models()[0].name)
latent, step = torch.zeros(1, CHANNELS, LATENT_SIZE, LATENT_SIZE, dtype=model.dtype), torch.ones(1)
text, pooled = (each.to(model.dtype) for each in conditioning([3]))
counts = []

def seen(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(home) and not frame.f_code.co_name.startswith("<"):
        counts[-1] += 1

for _ in range(int(sys.argv[2])):
    latent = latent + 0.1
    counts.append(0)
    sys.setprofile(seen)
    model(hidden_states=latent, timestep=step, encoder_hidden_states=text, pooled_projections=pooled)
    sys.setprofile(None)
# A call that takes long is kept alive meanwhile, which costs further functions.
print(min(counts))
"""


def modules(source: Path) -> Iterator[tuple[str, ast.Module, str]]:
    """Yield each module's path within the package, its syntax tree and its text."""
    home = source / PACKAGE
    for file in sorted(home.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        yield file.relative_to(home).as_posix(), ast.parse(text), text


def room_of(path: str) -> str:
    """Return the folder that holds a module; the package's own top level is a room without a name."""
    return path.rpartition("/")[0]


def _imported(path: str, tree: ast.Module, known: frozenset[str]) -> Iterator[str]:
    """Yield the rooms of what a module imports from the package."""
    folder = path.split("/")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder[: len(folder) - (node.level - 1)] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            parts = [*base, alias.name] if "/".join([*base, alias.name]) + ".py" in known else base
            target = "/".join(parts)
            yield room_of(target + ".py") if target + ".py" in known else target


def _top(room: str) -> str:
    return room.partition("/")[0]


def _apart(room: str, other: str) -> bool:
    return _top(room) != _top(other)


def figures(source: Path) -> dict[str, float | str]:
    """Return the figures of one source tree, by what they count."""
    found = list(modules(source))
    known = frozenset(path for path, _, _ in found)
    lines: Counter[str] = Counter()
    crossing: Counter[tuple[str, str]] = Counter()
    lengths: list[int] = []
    for path, tree, text in found:
        lines[room_of(path)] += text.count("\n")
        crossing.update((room_of(path), room) for room in _imported(path, tree, known) if room != room_of(path))
        lengths += [
            node.end_lineno - node.lineno + 1
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
        ]
    largest, most = lines.most_common(1)[0]
    longest = max(found, key=lambda each: each[2].count("\n"))
    return {
        "files": len(found),
        "lines": sum(lines.values()),
        "lines of the longest file": f"{longest[2].count(chr(10))} ({longest[0]})",
        "functions": len(lengths),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 90th percentile": statistics.quantiles(lengths, n=10)[8],
        "rooms": len(lines),
        "lines of the largest room": f"{most} ({largest})",
        "imports across rooms": sum(crossing.values()),
        "imports across top-level rooms": sum(n for pair, n in crossing.items() if _apart(*pair)),
        "pairs of top-level rooms": len({tuple(map(_top, pair)) for pair in crossing if _apart(*pair)}),
        "functions of ours in one steady call": hops(source),
    }


def hops(source: Path) -> int:
    """Return how many of the package's functions run on the client in one steady call to a worker process."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_WAIT_POLICY": "passive"}
    environment |= {"COMFY_GPU_OFFLOAD_COMPRESSION": "none"}
    command = [sys.executable, "-P", "-m", PACKAGE, "worker", "--backend", "diffusers", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            url = next(line for line in worker.stdout if "listening on" in line).split()[-1]
            probe = [sys.executable, "-P", "-c", _PROBE, url, str(_CALLS)]
            run = subprocess.run(probe, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
        finally:
            worker.terminate()
    return int(json.loads(run.stdout.splitlines()[-1]))


def main(sources: list[Path]) -> None:
    """Print a table with a column for each source tree."""
    columns = [figures(source) for source in sources]
    for name in columns[0]:
        print(f"{name:40}" + "".join(f"{column[name]!s:>44}" for column in columns))


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]] or [Path(__file__).parents[2] / "src"])
