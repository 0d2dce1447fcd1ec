"""Every Python example in the README runs as pasted and prints what the README says."""

from __future__ import annotations

import re
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
