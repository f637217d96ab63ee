"""The policy of an LLM request: headers, sampling, budgets, guides, prices, ledger, metrics."""

# Cached guides of another planner version are planned and compiled again: raise it when the planner changes.
PLANNER_VERSION = "3"
