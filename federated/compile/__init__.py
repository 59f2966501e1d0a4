"""From weights to int8 models: one quantiser, two writers."""
