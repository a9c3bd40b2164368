"""Every broken input ends in a clear refusal, or in a repair that is counted: no traceback, hang or great memory."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import broken_inputs
import pytest
from broken_inputs import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import fuzz

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


# --- grown by mutation; benchmarks/fuzz.py does the same for as long as asked -----------------------------------------


@pytest.fixture(scope="module")
def readers(trained: Path) -> dict[str, fuzz.Reader]:
    """Readers of copies of the data set and the run that tests share."""
    return {name: fuzz.Reader(name, trained) for name in fuzz.READERS}


@pytest.mark.parametrize("name", fuzz.READERS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_mutated_input_is_read_or_refused(
    name: str, rng: random.Random, readers: dict[str, fuzz.Reader], tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = readers[name]
    outcome, why = reader.run(reader.make(rng), tmp_path_factory.mktemp("fuzz") / "work")
    assert outcome in ("accepted", "refused"), why


def test_a_case_of_the_fuzzer_can_be_made_again(readers: dict[str, fuzz.Reader]) -> None:
    for reader in readers.values():
        first, second = (reader.make(random.Random("2020:x:7")) for _ in range(2))
        assert first == second
        assert any(reader.make(random.Random(f"2020:x:{number}")) != reader.seeds[0] for number in range(3))


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ((0, "", "", ""), "accepted"),
        ((2, "", "Error: no\n", ""), "refused"),
        ((2, "", "", ""), "finding"),
        ((2, "half", "Error: no\n", ""), "finding"),
        ((2, "", "Error: Traceback (most recent call last)\n", ""), "finding"),
        ((1, "", "", "KeyError: 'x'"), "finding"),
        ((3, "", "Error: no\n", ""), "finding"),
    ],
)
def test_what_the_fuzzer_calls_a_finding(ending: tuple[int, str, str, str], outcome: str) -> None:
    assert fuzz.judge(*ending)[0] == outcome
