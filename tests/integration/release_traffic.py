"""Clients of both releases that keep sending requests while the service changes from one to the other."""

from __future__ import annotations

import threading
import uuid
from collections import Counter

from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, SECOND, ReleaseService

# The release that a client names is not served, the server drains or does not listen.
EXPECTED_ERRORS = {"draining", "engine_hash_mismatch", "ConnectError", "overloaded"}
# A request that waits in the listening socket when the server closes it gets no answer.
NO_ANSWER = {"ReadError", "RemoteProtocolError"}
RETRY_S = 0.02


class ReleaseTraffic:
    """`answers` counts the error codes per client's release; an answer's code is empty.

    `unanswered` has the ids of requests without an answer; the server must not have processed any of them.
    """

    def __init__(self, service: ReleaseService) -> None:
        self._service = service
        self.answers: Counter[tuple[str, str]] = Counter()
        self.wrong: list[tuple[str, str]] = []
        self.unanswered: list[str] = []
        self._closing = threading.Event()
        self._clients = [threading.Thread(target=self._send_requests, args=(name,)) for name in (FIRST, SECOND) * 2]

    def __enter__(self) -> ReleaseTraffic:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        for client in self._clients:
            client.join()

    def wait_answered(self, name: str) -> None:
        """Wait until a client of release `name` has got one more answer."""
        before = self.answers[name, ""]
        wait_until(lambda: self.answers[name, ""] > before)

    def check(self) -> None:
        """Check that no release answered for the other, and that no request was lost."""
        assert self.wrong == []
        assert self.answers[FIRST, ""] and self.answers[SECOND, ""]
        assert {code for _, code in self.answers} <= {""} | EXPECTED_ERRORS | NO_ANSWER, self.answers
        marks = ",".join("?" * len(self.unanswered))
        assert self._service.rows(f"SELECT * FROM request WHERE request_id IN ({marks})", *self.unanswered) == []

    def _send_requests(self, name: str) -> None:
        headers = self._service.headers_of(name)
        while not self._closing.is_set():
            request_id = uuid.uuid4().hex
            reply = self._service.send_request(headers={**headers, "X-Request-Id": request_id})
            if not reply.status and reply.error != "ConnectError":
                self.unanswered.append(request_id)
            if reply.status == 200 and reply.outputs["engine_hash"] != [headers["X-Engine-Hash"]]:
                self.wrong.append((name, str(reply.outputs["engine_hash"])))
            self.answers[name, reply.code or reply.error] += 1
            if reply.status != 200:
                self._closing.wait(RETRY_S)
