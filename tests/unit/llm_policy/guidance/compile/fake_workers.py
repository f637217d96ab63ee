"""Workers without a process: a test decides when each one starts, reports and dies."""

import os
import queue
import time

import orjson

from llm_policy.guidance.compile.guide_report import GuideReport

TIMEOUT_S = 30.0


class FakeWorker:
    """Stands in for SandboxedWorker; its messages are written by the test."""

    def __init__(self, workers):
        self._workers = workers
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.is_alive, self.is_ready = True, False
        self.last_message_s, self.deadline = 0.0, time.monotonic() + TIMEOUT_S
        self.breaks_pipe = False

    def fileno(self):
        return self._reader

    def send(self, kind, text, timeout_s, *, is_registered=False):
        if self.breaks_pipe:
            raise BrokenPipeError
        self._workers.sent.put((self, text))

    def receive(self):
        message = os.read(self._reader, 1 << 16)
        if not message:
            raise EOFError
        return orjson.loads(message)

    def kill(self):
        self.is_alive = False
        os.close(self._reader)
        self._close_writer()

    def announce(self):
        """The worker has started."""
        os.write(self._writer, b'{"ready":true}')

    def report(self, **fields):
        """The worker has compiled its guide."""
        os.write(self._writer, orjson.dumps(tuple(GuideReport(engine_type="regex", **fields))))

    def die(self):
        self.is_alive = False
        self._close_writer()

    def _close_writer(self):
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)


class FakeWorkers:
    """All workers of a test. `starts_ready`: whether a worker that starts is ready at once."""

    def __init__(self):
        self.starts_ready = True
        self.started, self.sent = queue.Queue(), queue.Queue()

    def __call__(self, tokenizer_info_path, guidance):
        worker = FakeWorker(self)
        if self.starts_ready:
            worker.announce()
        self.started.put(worker)
        return worker

    def next_started(self):
        return self.started.get(timeout=TIMEOUT_S)

    def next_sent(self):
        """The next worker that gets a guide, and the guide's text."""
        return self.sent.get(timeout=TIMEOUT_S)
