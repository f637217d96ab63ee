"""The plan of a load benchmark."""

from llmstack.bench.load_plan import LoadPlan


def test_each_client_sends_at_least_one_request():
    plan = LoadPlan([1, 8], prompt_tokens=16, completion_tokens=4, num_requests=4, schema_id="order")
    assert [plan.num_requests_at(concurrency) for concurrency in plan.concurrencies] == [4, 8]
    assert plan.total_requests == 2 * (4 + 8)
