"""The embedded model: generates its training data, trains it, evaluates it, and builds the release in artifacts/.

It is no part of the llmstack package: the release serves without it.
"""
