"""Smoke results as JUnit XML, for CI systems."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from itertools import groupby

from llmstack.release.checks.smoke import FAILED, REFUSED, SliceResult

# Characters that XML 1.0 can't represent, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(results: Iterable[SliceResult]) -> bytes:
    """One suite per slice file and one case per slice; a refused slice is an error, not a failure."""
    root = ElementTree.Element("testsuites", name="llmstack smoke")
    for group, members in groupby(results, lambda result: result.group):
        _add_suite(root, group, list(members))
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_suite(root: ElementTree.Element, group: str, results: list[SliceResult]) -> None:
    statuses = [result.status for result in results]
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_text(group),
        tests=str(len(results)),
        failures=str(statuses.count(FAILED)),
        errors=str(statuses.count(REFUSED)),
        time=f"{sum(result.seconds for result in results):.4f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_text(group), name=_text(result.id), time=f"{result.seconds:.4f}"
        )
        if result.faults:
            kind = "error" if result.status == REFUSED else "failure"
            ElementTree.SubElement(case, kind, message=_text("; ".join(result.faults)))


def _text(text: str) -> str:
    return _NOT_XML.sub("�", text)
