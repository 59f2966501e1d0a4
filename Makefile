# make demo | test | chaos | harm | fuzz | check | lock        ARGS="..." goes to the command: make test ARGS="tests/edge -x"
.POSIX:
.PHONY: help demo test chaos harm fuzz check lock

help:
	@echo 'make demo    the whole loop on this machine       ARGS="--json"'
	@echo 'make test    the tests, with real servers         ARGS="tests/edge"'
	@echo 'make chaos   loads x faults, half an hour          ARGS="--faults kill-*"'
	@echo 'make harm    power cuts, kills, bad bundles, long  ARGS="-k kill"'
	@echo 'make fuzz    every decoder, an hour                ARGS="-k mavlink"'
	@echo 'make check   ruff, mypy, import rules, tsc'
	@echo 'make lock    write constraints.txt anew'

demo:
	@scripts/setup demo
	@.venv/bin/covey demo $(ARGS)

# Three on two cores: most tests wait for processes. tests/conftest.py orders the files, the long ones first.
test:
	@scripts/setup dev
	@scripts/servers
	@.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# As root it also cuts wires between namespaces and fills small file systems of its own; docs/chaos.md.
chaos:
	@scripts/setup dev
	@scripts/servers
	@PYTHONPATH=tests .venv/bin/python -m chaos.run $(ARGS)

# The device's side: the long forms of what `make test` runs short; as root power is cut under a file system of its own.
harm:
	@scripts/setup dev
	@scripts/servers
	@COVEY_LONG=1 .venv/bin/python -m pytest -q tests/edge/test_power_loss.py tests/edge/test_harm.py \
		tests/edge/test_corrupt_bundles.py tests/edge/test_source_mavlink.py $(ARGS)

fuzz:
	@scripts/setup dev
	@COVEY_FUZZ_EXAMPLES=$${COVEY_FUZZ_EXAMPLES:-3000} .venv/bin/python -m pytest -q -n 2 tests/fuzz $(ARGS)

check:
	@scripts/setup dev
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/mypy --python-version 3.10 covey/ edge/
	@.venv/bin/mypy tests/servers.py tests/processes.py tests/conftest.py tests/chaos/run.py tests/chaos/devices.py \
		tests/chaos/crowd_devices.py
	@.venv/bin/lint-imports --no-logo
	@scripts/check-js

# One file for every Python from 3.11 on: what differs carries a marker. uv looks past a library's upper bound on
# Python and pip does not, so what pip would refuse is kept out: backports-strenum 1.3 says "below 3.11".
lock:
	@scripts/setup dev
	@echo 'backports-strenum<1.3' >.venv/limits.txt
	@.venv/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --extra dev -c .venv/limits.txt \
		--no-annotate --no-header pyproject.toml -o .venv/constraints.txt
	@sed '/^[^#]/d' constraints.txt >.venv/head.txt && cat .venv/head.txt .venv/constraints.txt >constraints.txt
