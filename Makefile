# Everything a developer does here. `make` lists it.
#
# Requires GNU make and Python 3.11 or newer (`make PYTHON=python3.12 ...` chooses another one); the rest comes by `make setup`.

PYTHON ?= python3
UV ?= uv
BIN := .venv/bin

# Programs the tests and the demo start, and the Debian packages they come in.
SYSTEM_PROGRAMS := redis-server:redis-server /usr/lib/rabbitmq/bin/rabbitmq-server:rabbitmq-server \
  /usr/sbin/mariadbd:mariadb-server promtool:prometheus amtool:prometheus-alertmanager openssl:openssl

# Test processes: half as many again as there are processors, as most of the time they wait for servers; four at most.
TEST_PROCESSES ?= $(shell n=$$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )); echo $$(( n > 4 ? 4 : n )))

# `make demo DEMO_SECONDS=45` hands it on.
export DEMO_SECONDS

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint types bench dashboards pictures lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/.complete system ## .venv with everything, and the Debian packages where that is allowed

# pip follows the machine's own configuration (index, certificates, proxies); what would contradict the two commands is
# switched off. A lock that pip has installed once is not looked at again until it or pyproject.toml changes.
.venv/.complete: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "loopwatch needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no ensurepip, which makes virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	PIP_USER=0 $(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	PIP_USER=0 PIP_REQUIRE_HASHES=0 $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Debian starts the services of the packages it installs; nobody asked for those, so they are switched off again.
system:
	@missing=; for entry in $(SYSTEM_PROGRAMS); do \
	  command -v "$${entry%%:*}" >/dev/null || missing="$$missing $${entry##*:}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root="sudo -n"; else root=refused; fi; \
	if [ "$$root" = refused ] || ! command -v apt-get >/dev/null; then \
	  echo "Not installed, and this user may not do it (tests that need them are skipped): apt-get install$$missing" >&2; exit 0; fi; \
	echo "Installing the Debian packages:$$missing"; \
	{ $$root apt-get update -qq && \
	  $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || { \
	  echo "apt-get failed (tests that need them are skipped); by hand: apt-get install$$missing" >&2; exit 0; }; \
	for service in $$missing; do [ "$$service" != mariadb-server ] || service=mariadb; \
	  if [ -d /run/systemd/system ]; then $$root systemctl disable --quiet --now $$service 2>/dev/null || :; \
	  elif [ -x /etc/init.d/$$service ]; then \
	    $$root /etc/init.d/$$service stop >/dev/null 2>&1 || :; $$root update-rc.d $$service disable >/dev/null 2>&1 || :; fi; done

demo: setup ## the whole product on this machine until Ctrl-C; DEMO_SECONDS=45: both settings, and a table
	@$(BIN)/python -m app.demo

test: setup lint ## lint, types and all tests; CI=1: a missing service fails instead of skipping
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

lint: .venv/.complete types ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.complete
	$(BIN)/mypy

bench: setup ## the benchmarks
	@$(BIN)/python -m benchmarks

dashboards: .venv/.complete ## dashboards and alert rules anew from the code
	@$(BIN)/python -m dashboards

# `make pictures PICTURES=--draw` draws what the last run has left, without another one.
pictures: setup ## docs/pictures/*.png anew: a run of sixteen minutes, drawn from what Prometheus says of it
	@$(BIN)/python -m dashboards.pictures $(PICTURES)

lock: ## requirements-dev.lock anew from pyproject.toml, by uv
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --group dev --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet -o requirements-dev.lock

clean: ## remove what was made here, .venv included
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
