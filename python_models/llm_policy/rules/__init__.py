"""The rules that every request must satisfy: headers, row inputs, sampling, budgets."""
