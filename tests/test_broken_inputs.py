"""Every broken input ends in a clear refusal, or in a repair that is counted: no traceback, hang or great memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import broken_inputs
import pytest
from broken_inputs import Case

CASES = broken_inputs.cases()

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What became of each case, in one process of bounded memory; the rest is missing if that process dies."""
    done = subprocess.run(
        [sys.executable, broken_inputs.__file__], capture_output=True, text=True, timeout=600, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {outcome.get("name", "peak"): outcome for outcome in found} | {"stderr": {"text": done.stderr[-2000:]}}


def test_there_are_many_and_their_names_differ() -> None:
    assert len(CASES) >= 150
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken_input(case: Case, outcomes: dict[str, dict[str, Any]]) -> None:
    assert case.name in outcomes, outcomes["stderr"]["text"]
    outcome = outcomes[case.name]
    text = outcome["stderr"]
    assert outcome["error"] == ""
    if case.repaired is not None:
        assert outcome["code"] == 0, text
        assert re.search(case.repaired, outcome["stdout"]), outcome["stdout"]
        return
    assert outcome["code"] == 2, text + outcome["stdout"]
    assert re.search(case.message, text), text
    assert text.startswith(("Error: ", "Usage: "))
    assert text.endswith("\n")
    assert len(text) < 8000
    assert text.count("\n") <= 5
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert outcome["stdout"] == ""
    assert not outcome["left"]


def test_memory_stays_within_its_bound(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["peak"]["peak"] < broken_inputs.MEMORY
