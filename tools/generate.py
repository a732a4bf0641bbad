"""Generates the Python code of protos/ into clients/python, or checks that it is current.

Run it with the interpreter of the tools environment (`make gen`, `make gen-check`).
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "clients" / "python"
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main() -> int:
    """Writes the generated tree, or with --check reports where it differs; exit 1 when it does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        stale = differences(fresh, TARGET)
        if check:
            return report(stale)
        install(fresh, TARGET)
    print(f"generated {len(generated_files(TARGET))} files, {len(stale)} changed")
    return 0


def generate(out: Path) -> None:
    """Runs protoc with the message, service and stub plugins over every proto, into out."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    bin_dir = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    command += [
        f"--plugin={name}={bin_dir / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    command += [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
    subprocess.run([*command, *sources], check=True, cwd=PROTOS)


def generated_files(root: Path) -> set[Path]:
    """The generated files below root, relative to it."""
    return {path.relative_to(root) for pattern in PATTERNS for path in root.rglob(pattern)}


def differences(fresh: Path, present: Path) -> list[Path]:
    """The files that are missing, superfluous or of another content in present."""
    new, old = generated_files(fresh), generated_files(present)
    changed = {
        path for path in new & old if not filecmp.cmp(fresh / path, present / path, shallow=False)
    }
    return sorted(changed | (new ^ old))


def install(fresh: Path, present: Path) -> None:
    """Makes present equal to fresh; files whose content is the same keep their time."""
    for path in differences(fresh, present):
        if (fresh / path).exists():
            (present / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, present / path)
        else:
            (present / path).unlink()


def report(stale: list[Path]) -> int:
    """Names each stale file; returns the exit status."""
    for path in stale:
        print(f"stale: {path} (run: make gen)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
