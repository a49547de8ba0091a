"""`make conformance` overlooks nothing that the suite reports, and nothing that it leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.conformance import NEWEST, Leg, counted

SUCCESS, FAILURE, WARNING, SKIPPED = "SUCCESS", "FAILURE", "WARNING", "SKIPPED"


def check(status: str, id: str = "a-check", **more: str) -> dict[str, Any]:
    return {"id": id, "status": status, **more}


def output_of(*scenarios: str, unscored: tuple[str, ...] = ()) -> str:
    lines = [f"=== Running scenario: {name} ===" for name in scenarios]
    if unscored:
        lines.append(f"Not scored for 2026-07-28: {len(unscored)} scenario(s) run, 1 failing.")
        lines += [f"  ✗ {name} (extension)" for name in unscored]
    return "\n".join(lines)


LEG = Leg(NEWEST, "2026-07-28", 2, frozen=True)


def test_scenarios_whose_checks_succeed_have_passed() -> None:
    found = counted(LEG, output_of("ping", "tools"), {"ping": [check(SUCCESS)], "tools": [check(SUCCESS)] * 2})
    assert (found.passed, found.failed, found.checks, found.complaints) == (2, 0, 3, [])


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ([check(SUCCESS), check(FAILURE, errorMessage="no\n tools")], "a-check (FAILURE): no tools"),
        ([check(SUCCESS), check(WARNING, description="should")], "a-check (WARNING): should"),
        ([], "it did not end."),
        ([check(SKIPPED), check(SUCCESS, "wire-schema-valid")], "nothing was checked."),
    ],
)
def test_a_scenario_fails_by_a_failure_or_a_warning_or_for_want_of_checks(
    checks: list[dict[str, Any]], said: str
) -> None:
    found = counted(LEG, output_of("ping", "tools"), {"ping": [check(SUCCESS)], "tools": checks})
    assert (found.passed, found.failed, found.complaints) == (1, 1, [f"tools: {said}"])


def test_scenarios_that_the_set_does_not_score_count_neither_way() -> None:
    output = output_of("ping", "tools", "tasks", unscored=("tasks",))
    found = counted(LEG, output, {"ping": [check(SUCCESS)], "tools": [check(SUCCESS)], "tasks": [check(FAILURE)]})
    assert (found.passed, found.failed) == (2, 0)


def test_a_scenario_that_is_not_run_has_failed() -> None:
    found = counted(LEG, "no such revision", {})
    assert (found.passed, found.failed, found.complaints) == (0, 2, ["2 of 2 scenarios were not run."])
