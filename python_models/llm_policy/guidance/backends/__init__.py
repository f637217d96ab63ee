"""Structured-output backends: XGrammar and llguidance, behind one interface (plan, compile, mask)."""
