"""Count one JUnit report: `passed failed skipped` on the first line, then the failed tests, a line each."""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def main(path: str) -> None:
    passed = skipped = 0
    failed: list[str] = []
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    # A test that fails, and again in its teardown, is two entries in the report and one failed test.
    failed = list(dict.fromkeys(failed))
    print(passed, len(failed), skipped)
    print("\n".join(failed))


if __name__ == "__main__":
    main(sys.argv[1])
