"""Learning together: Flower apps, engines, model families, aggregation, int8 export, evaluation."""

import os

# Before anything imports flwr: it must call nobody.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
