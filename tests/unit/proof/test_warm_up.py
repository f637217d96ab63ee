"""A warm-up sends every task and schema texts of exactly the lengths it says, and finds what is not as it should be."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks.slice_file import Slice
from llmstack.release.checks.smoke import FAILED, PASSED, run_slices
from llmstack.release.checks.target import Target
from llmstack.release.checks.warm_up import NUM_WARM, PromptError, compile_times, prompt_of, warm_up
from llmstack.release.coverage import lengths, subjects
from tests.releases import change_manifest, write_release

METRICS = """# TYPE llm_guide_compile_ms histogram
llm_guide_compile_ms_bucket{le="1"} 1
llm_guide_compile_ms_sum 12.5
llm_guide_compile_ms_count 3
llm_guide_compile_ms_sum{model="x"} 1.0
llm_guide_compile_ms_count{model="x"} 1
"""


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 256, 1_024])
def test_a_prompt_has_exactly_as_many_tokens_as_were_asked_for(num_tokens):
    tokenizer = Tokenizer.load(Release.open(DEFAULT_RELEASE_DIR).tokenizer_dir)
    assert len(tokenizer.encode_text(prompt_of(tokenizer, num_tokens))) == num_tokens


class OneToken:
    """A tokenizer whose only texts have one token."""

    def encode_text(self, text):
        return [0] if len(text) < 100 else [0, 0, 0]


def test_a_length_that_a_tokenizer_can_not_make_is_told():
    with pytest.raises(PromptError, match="no text of 2 tokens"):
        prompt_of(OneToken(), 2)


def test_compile_times_are_the_sums_over_all_models():
    assert compile_times(METRICS) == {"num_guides_compiled": 4, "guide_compile_ms_total": 13.5}


def test_lengths_end_at_the_releases_limit(tmp_path):
    release = write_release(tmp_path / "r1")
    assert lengths(release) == [16, 256, 1_024, 4_096]
    tree = json.loads((release.directory / "manifest.json").read_text())
    change_manifest(release.directory, thresholds={**tree["thresholds"], "max_prompt_tokens": 300})
    assert lengths(Release.open(release.directory)) == [16, 256, 300]


class Ensemble(BaseHTTPRequestHandler):
    """Answers as the ensemble does, with what the server's `answer` makes of the request."""

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


@pytest.fixture
def ensemble():
    with ThreadingHTTPServer(("127.0.0.1", 0), Ensemble) as server:
        server.asked = []
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def target(ensemble):
    return Target(Release.open(DEFAULT_RELEASE_DIR), ServerUrls(f"http://127.0.0.1:{ensemble.server_port}"), "")


def answer_of(target, changes):
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


# By the schema whose answers are wrong in this way.
WRONG = {
    "invoice": ({"engine_hash": "sha256:0"}, "engine_hash is 'sha256:0', expected 'sha256:"),
    "order": ({"num_input_tokens": 17}, "num_input_tokens is 17, expected 16"),
    "ticket": ({"num_output_tokens": 0}, "the engine returned no token"),
    "verdict": ({"resolved_schema_id": ""}, "resolved_schema_id is '', expected 'verdict'"),
}


def test_a_warm_up_covers_every_task_and_schema_and_says_what_is_wrong_with_each(ensemble, target):
    ensemble.answer = answer_of(target, lambda inputs: WRONG.get(inputs.get("schema_id"), ({},))[0])
    rows = warm_up(target, [16], lambda row: None)
    assert [row.what for row in rows] == [subject.what for subject in subjects(target.release)]
    assert len(ensemble.asked) == (1 + NUM_WARM) * len(rows)
    assert {row.queue_delay_us_max for row in rows} == {7}
    faults = {row.what.removeprefix("schema "): row.fault for row in rows if row.fault}
    assert faults.keys() == WRONG.keys()
    assert all(faults[name].startswith(fault) for name, (_, fault) in WRONG.items())


def test_a_page_that_is_no_json_fails_its_slice_and_no_other(ensemble, target):
    good = answer_of(target, lambda inputs: {"schema_valid": True, "text_output": "{}"})
    ensemble.answer = lambda inputs: "<html>busy</html>" if inputs["text_input"] == "bad" else good(inputs)
    slices = [Slice(id=text, task="judge", text_input=text, expect={"schema_valid": True}) for text in ("good", "bad")]
    results = run_slices(target, {"judge": slices}, 2, lambda result: None)
    assert [result.verdict for result in results] == [PASSED, FAILED]
    assert "not Triton's: '<html>busy</html>'" in results[1].faults[0]
