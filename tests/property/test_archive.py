"""Properties of the archive under any order of operations, interruptions included: each row is counted once."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm_policy.ledger.archive_file import read_files
from llm_policy.ledger.budget_window import NS_PER_DAY, day_of
from llm_policy.ledger.ledger import RULE_OF_FLAG
from llm_policy.ledger.size_budget import keep_budget
from llmstack.ledger import archive as archive_module
from llmstack.ledger.archive import Archiver, find_months, unfinished_files
from llmstack.ledger.archive_reader import ArchiveReader
from llmstack.ledger.period import Period
from llmstack.ledger.report import GROUPS, make_report
from llmstack.ledger.row_stream import read_all_pages
from llmstack.ledger.verification import verify
from tests.hypothesis_profiles import num_examples
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement

pytest.importorskip("pyarrow", exc_type=ImportError)

FIRST_NS = 20_000 * NS_PER_DAY
ENDS = ("settled", "cut", "refused", "cancelled", "late")
new_rows = st.builds(
    lambda tenant, schema, tokens, is_canary: NEW_ROW._replace(
        tenant=tenant, schema_id=schema, num_prompt_tokens=tokens, is_canary=is_canary
    ),
    st.sampled_from(["acme", "globex", ""]),
    st.sampled_from(["order", "sha256:" + "c" * 64]),
    st.integers(0, 9),
    st.integers(0, 5).map(lambda number: number == 0),
)


class Interrupted(Exception):
    """Ends a run of the archiver."""


class ArchiveMachine(RuleBasedStateMachine):
    """One ledger whose rows are archived, by runs that may be interrupted, while it is read and written."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.ledger = open_ledger(self.path, max_queue_size=1_000_000, max_queue_tokens=1_000_000_000)
        self.reader = ArchiveReader(self.path / "archive")
        self.now_ns = FIRST_NS
        self.pages, self.exported = None, []

    def teardown(self):
        self.pages = None
        self.ledger.connection.close()
        self.directory.cleanup()

    @property
    def connection(self):
        return self.ledger.connection

    @rule(
        rows=st.lists(
            st.tuples(new_rows, st.sampled_from(ENDS), st.sets(st.sampled_from(sorted(RULE_OF_FLAG)))),
            min_size=2,
            max_size=8,
        )
    )
    def write(self, rows):
        for row, end, flags in rows:
            self.now_ns += 1_001
            row_id = admit(self.ledger, row, self.now_ns)
            answer = settlement(row_id, row, sorted(flags))
            if end in ("cancelled", "late"):
                self.ledger.close_unanswered(self.now_ns + 1, 0)
            if end in ("settled", "late"):
                self.ledger.settle([answer], self.now_ns + 2)
            if end == "cut":
                self.ledger.settle([answer._replace(code="deadline_exceeded")], self.now_ns)
            if end == "refused":
                self.ledger.reject([rejection(row_id, "internal", row)], self.now_ns)

    @rule(row=new_rows, code=st.sampled_from(["unknown_task", "missing_header"]))
    def write_rejected(self, row, code):
        self.ledger.record([[row._replace(code=code)]], self.now_ns)

    @rule(row=new_rows)
    def write_open(self, row):
        admit(self.ledger, row, self.now_ns)

    @rule(days=st.sampled_from([1, 2, 20]))
    def wait(self, days):
        self.now_ns += days * NS_PER_DAY

    @rule(num_steps=st.integers(0, 20), changes=st.booleans())
    def archive(self, num_steps, changes):
        """A run that ends after this many reports of its progress, or at its end."""
        num_left = num_steps
        self.now_ns += 2 * NS_PER_DAY

        def count(what, done, total):
            nonlocal num_left
            num_left -= 1
            if num_left == 0:
                raise Interrupted
            if changes and what == "reading back":
                keep_budget(self.connection, 1, self.now_ns)

        archiver = Archiver(self.connection, self.path / "archive", count)
        try:
            for file in unfinished_files(self.connection):
                archiver.finish(file)
            for month in find_months(self.connection, day_of(self.now_ns) - 1):
                archiver.archive(month)
        except Interrupted:
            pass

    @precondition(lambda self: self.pages is None)
    @rule()
    def begin_export(self):
        self.exported = []
        self.ids_before = self.all_ids()
        self.pages = read_all_pages(self.connection, self.reader, Period(), with_canary=True)

    @precondition(lambda self: self.pages is not None)
    @rule(num_pages=st.integers(1, 3))
    def export(self, num_pages):
        """Rows are exported once, in their order; only rows that became counts meanwhile may be missing."""
        for _ in range(num_pages):
            page = next(self.pages, None)
            if page is None:
                self.pages = None
                assert self.exported == sorted(set(self.exported))
                assert {*self.all_ids()} & {*self.ids_before} <= {*self.exported}
                return
            self.exported += [row["id"] for row in page]

    def all_ids(self):
        pages = read_all_pages(self.connection, self.reader, Period(), with_canary=True)
        return [row["id"] for page in pages for row in page]

    @invariant()
    def ledger_verify_finds_no_discrepancy(self):
        assert verify(self.connection, self.now_ns, 1e9, self.reader).discrepancies == []

    @invariant()
    def report_and_export_have_every_row_once(self):
        report = make_report(self.connection, list(GROUPS), Period(), with_canary=True, archive=self.reader)
        ids = self.all_ids()
        assert len(ids) == len({*ids}) == report.total.num_rows - report.total.only_counted

    @invariant()
    def the_ledger_knows_every_file(self):
        files = {str(path.relative_to(self.path / "archive")) for path in self.path.glob("archive/*/*.parquet")}
        assert files == {file.name for file in read_files(self.connection)}


class TestArchive(ArchiveMachine.TestCase):  # type: ignore[misc,valid-type]  # made by Hypothesis
    settings = settings(stateful_step_count=20, max_examples=num_examples(12, in_explore_profile=200), deadline=None)

    @pytest.fixture(autouse=True)
    def small_pages(self, monkeypatch):
        monkeypatch.setattr(archive_module, "REMOVE_BATCH_ROWS", 2)
        monkeypatch.setattr(archive_module, "PAGE_ROWS", 3)
        monkeypatch.setattr("llmstack.ledger.export.PAGE_ROWS", 3)
        monkeypatch.setattr("llmstack.ledger.archive_reader._BATCH_ROWS", 3)
