"""The rules of a request: headers, form, sampling, budgets."""
