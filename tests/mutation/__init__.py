"""Mutation testing of the rules that decide about money and access: `make mutate`."""
