"""Smoke results become valid JUnit XML."""

import json
import xml.etree.ElementTree as ElementTree

from llmstack.release.checks.junit import junit_xml
from llmstack.release.checks.smoke import SliceResult


def test_junit_counts_failures_and_errors_and_is_valid_xml_for_any_text():
    results = [
        SliceResult("judge", "a", "passed", seconds=0.5),
        SliceResult("judge", "b\x00<", "failed", ("no\x1b",)),
        SliceResult("rank", "c", "refused", ("is for engine_hash x",)),
    ]
    root = ElementTree.fromstring(junit_xml(results))
    suites = {suite.get("name"): suite.attrib for suite in root}
    assert (suites["judge"]["tests"], suites["judge"]["failures"], suites["judge"]["errors"]) == ("2", "1", "0")
    assert (suites["rank"]["failures"], suites["rank"]["errors"]) == ("0", "1")
    assert json.dumps([case.get("name") for case in root.iter("testcase")]) == json.dumps(["a", "b�<", "c"])
