"""How good a model is, on recordings with truth: what ships is scored as a device scores it, beside what it competes with."""
