"""Plans guides: from the client's text to the grammar that the engine gets, one planner per guide type."""
