"""Before a change of the release in service one reads its direction, how long it takes, and what clients see."""

from llm_policy.release.release import Release
from llmstack.release.change import PROMOTION, ROLLBACK, ChangeRequest, ReleaseRef
from llmstack.release.service_gap import describe_gap
from tests.unit.release.recording_service import RecordingService, open_change


def request(store, kind=PROMOTION, source="old", target="new") -> ChangeRequest:
    one, other = (ReleaseRef.of(Release.open(store.directory(name))) for name in (source, target))
    return ChangeRequest(kind, store.link, one, other)


def text(*arguments, is_served=True) -> str:
    return "\n".join(describe_gap(*arguments, is_served=is_served))


def test_the_direction_comes_first(store):
    assert text(request(store), []).startswith("promotion: old → new\n")
    assert text(request(store, ROLLBACK, "new", "old"), []).startswith("rollback: new → old\n")
    assert text(request(store)._replace(source=ReleaseRef()), []).startswith("promotion: nothing → new\n")


def test_the_gap_is_that_of_the_last_change_that_completed(store, switch):
    assert "about 20 s and as long as new takes to load" in text(request(store), [])
    open_change(switch, store)
    switch.perform_pending(RecordingService())
    (done,) = switch.journal.changes()
    timed = done._replace(requested_ns=0, ended_ns=14_800_000_000)
    failed = timed._replace(outcome="failed", ended_ns=99_000_000_000)
    elsewhere = timed._replace(link="/other/current", ended_ns=99_000_000_000)
    assert "about 15 s, as at the last change, if new loads" in text(request(store), [timed, failed, elsewhere])


def test_clients_see_draining_and_then_no_connection(store):
    found = text(request(store), [])
    assert "clients get draining (503; 400 through /generate), then no connection" in found
    assert "requests in flight are answered first" in found


def test_only_another_engine_hash_ends_the_service_of_clients_that_name_the_old_one(store):
    same = request(store)
    assert "engine_hash_mismatch" not in text(same, [])
    other = same._replace(source=same.source._replace(engine_hash="sha256:" + "0" * 64))
    assert "name the engine hash of old get engine_hash_mismatch" in text(other, [])
    assert "engine_hash_mismatch" not in text(same._replace(source=ReleaseRef("releases/old")), [])


def test_without_a_service_no_client_is_affected(store):
    assert text(request(store), [], is_served=False).endswith("so no client is affected")
