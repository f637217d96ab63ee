"""A server that answers like the ensemble, with outputs that a test decides on."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llm_policy.text.tokenizer import Tokenizer


class EnsembleServer(ThreadingHTTPServer):
    """`asked` has the inputs of each request; `answer` returns the outputs for them, or a text that is no response."""

    answer: Callable[[Any], Any]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Ensemble)
        self.asked: list[dict[str, Any]] = []


class Ensemble(BaseHTTPRequestHandler):
    """Answers like the ensemble, with the outputs that the server's `answer` returns for the request."""

    server: EnsembleServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        inputs = {tensor["name"]: tensor["data"][0] for tensor in body["inputs"]}
        self.server.asked.append(inputs)
        answer = self.server.answer(inputs)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def answer_of(target, changes):
    """A right answer to every request, updated with what `changes` returns for its inputs."""
    tokenizer = Tokenizer.load(target.release.tokenizer_dir)
    schema_of = {name: task.schema_id for name, task in target.release.manifest.tasks.items()}

    def answer(inputs):
        outputs = {
            "engine_hash": target.release.manifest.engine.hash,
            "num_input_tokens": len(tokenizer.encode_text(inputs["text_input"])),
            "num_output_tokens": 8,
            "resolved_schema_id": inputs.get("schema_id") or schema_of[inputs["task"]],
            "queue_delay_us": 7,
            **changes(inputs),
        }
        return {"outputs": [{"name": name, "data": [value]} for name, value in outputs.items()]}

    return answer
