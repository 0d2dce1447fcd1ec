"""Every Python example in the README runs as pasted and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
EXAMPLES = EXAMPLE.findall(README.read_text(encoding="utf-8"))


def test_there_are_examples() -> None:
    """The pattern finds them all: none is left out for its layout."""
    assert len(EXAMPLES) == README.read_text(encoding="utf-8").count("```python") >= 4


@pytest.mark.parametrize(("code", "output"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(code: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as a script; tests that it defines pass; it prints the text that follows it."""
    if "import Client" in code:
        pytest.importorskip("distributed", reason="the package distributed is not installed")
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, str(README), "exec"), names)
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()

    assert capsys.readouterr().out == output


_WORKER = """
import os, sys, tempfile
tempfile.tempdir = sys.argv[1]
sys.stdin.read()
os._exit(0)
"""


def test_one_of_several_workers_starts(tmp_path: Path) -> None:
    """Of four processes with the README's lock one has a scheduler that runs; then the next one."""
    (code,) = [code for code, _ in EXAMPLES if "def start_in_one_process" in code]
    program = _WORKER.replace("sys.stdin.read()", _asking(code))
    workers = [_worker(program, tmp_path) for _ in range(4)]

    assert sorted(_answer(worker) for worker in workers) == ["new", "new", "new", "running"]
    for worker in workers:
        worker.kill()
        worker.communicate()
    heir = _worker(program, tmp_path)
    assert _answer(heir) == "running"
    heir.communicate("")


def _asking(code: str) -> str:
    """Return the example without its end, which then says how its scheduler stands, and waits."""
    body, _, _ = code.partition("\nstart_in_one_process()\n")
    return f"{body}\nstart_in_one_process()\nprint(s.state, flush=True)\nsys.stdin.read()"


def _worker(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()
