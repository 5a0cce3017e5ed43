"""Generate `abci_app/proto` from the .proto files of the pinned CometBFT module.

    python tools/generate_proto.py [--cometbft DIR] [--gogoproto DIR]

The folders default to what Go's module cache holds for `tools/cometbft/go.mod`. The result is
not committed; a second run with the same sources and compiler does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "abci_app" / "proto"
STAMP = TARGET / ".stamp"
MODULE_FOLDER = ROOT / "tools" / "cometbft"
# ABCI itself, and the headers, commits and votes that a light client verifies.
ROOTS = ("tendermint/abci/types.proto", "tendermint/types/canonical.proto")
IMPORT = re.compile(r'^import\s+"((?:tendermint|gogoproto)/[^"]+)";', re.MULTILINE)
GENERATED_IMPORT = re.compile(r"^(from|import) (tendermint|gogoproto)\b", re.MULTILINE)
UNCHECKED = "# mypy: ignore-errors\n"  # their types are right but not complete
DOCSTRING = '"""Generated from CometBFT\'s .proto files by tools/generate_proto.py."""\n'


def module_folder(module: str) -> Path:
    command = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    try:
        found = subprocess.run(
            command, cwd=MODULE_FOLDER, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"cannot find the Go module {module}; name its folder: {error}") from error
    folder = found.stdout.strip()
    if not folder:
        raise SystemExit(f"the Go module {module} is not downloaded: run `go mod download`")
    return Path(folder)


def collect(includes: list[Path]) -> dict[str, str]:
    """The text of every file that `ROOTS` need, by its import name, in sorted order."""
    sources: dict[str, str] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = next((folder / name for folder in includes if (folder / name).is_file()), None)
        if path is None:
            raise SystemExit(f"{name} is in none of {', '.join(map(str, includes))}")
        sources[name] = path.read_text()
        waiting += IMPORT.findall(sources[name])
    return dict(sorted(sources.items()))


def fingerprint(sources: dict[str, str]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(version("grpcio-tools").encode())
    for name, text in sources.items():
        digest.update(f"\0{name}\0{text}".encode())
    return digest.hexdigest()


def generate(sources: dict[str, str], target: Path) -> None:
    """Compile `sources` into the package `target`, importing each other as `abci_app.proto...`."""
    with tempfile.TemporaryDirectory() as temporary:
        inputs, outputs = Path(temporary, "in"), Path(temporary, "out")
        outputs.mkdir()
        for name, text in sources.items():
            path = inputs / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{inputs}"]
        targets = [f"--python_out={outputs}", f"--pyi_out={outputs}"]
        if subprocess.run([*compiler, *targets, *sources], check=False).returncode != 0:
            raise SystemExit("protoc failed")
        for path in (*outputs.rglob("*.py"), *outputs.rglob("*.pyi")):
            text = GENERATED_IMPORT.sub(r"\1 abci_app.proto.\2", path.read_text())
            path.write_text(UNCHECKED + text)
        for folder in (outputs, *(path for path in outputs.rglob("*") if path.is_dir())):
            (folder / "__init__.py").write_text(DOCSTRING)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(outputs, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cometbft", type=Path, metavar="DIR")
    parser.add_argument("--gogoproto", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    cometbft = arguments.cometbft or module_folder("github.com/cometbft/cometbft")
    gogoproto = arguments.gogoproto or module_folder("github.com/cosmos/gogoproto")
    sources = collect([cometbft / "proto", gogoproto])
    wanted = fingerprint(sources)
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    generate(sources, TARGET)
    STAMP.write_text(wanted)
    print(f"generated {len(sources)} protobuf modules in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
