"""The OpenAI API as a client of `ensemble` and `ensemble_stream`: it translates, and has no policy of its own."""
