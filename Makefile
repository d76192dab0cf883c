SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help demo test lint deps-check rust-tests postgres-tests deb cross-test page page-tests demo-test contract soak train train-compact train-second-ear evaluate bench bench-inference bench-speech bench-training bench-api bench-rollout bench-alerts bench-lists load openapi fmt clean

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# One feature set everywhere: a second one would build tract a second time. Targets count too: the
# features of dev-dependencies join in only where tests are built.
ALL := --workspace --all-features --all-targets
SETUP := source deploy/setup.sh;

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

demo: ## Build, start a server and three stations, show alerts (AUDIO=dir, MIC=1)
	@exec deploy/demo/run

test: ## Everything that CI checks
	@$(SETUP) need_test_tools
	$(MAKE) --no-print-directory lint deps-check page rust-tests page-tests demo-test

lint: ## Formatting and lints
	@$(SETUP) need_rust
	cargo fmt --all --check
	cargo clippy $(ALL) -- -D warnings
	cargo clippy --workspace --all-targets "$${WITHOUT_MICROPHONE[@]}" -- -D warnings
	cargo check -p ecosight-shared --no-default-features

deps-check: ## Licences, bans and sources of dependencies; known vulnerabilities
	@$(SETUP) cargo deny --all-features check bans licenses sources
	advisories=$${ECOSIGHT_SHARED:-../shared}/advisory-db
	if [ -d "$$advisories" ]; then
	    cargo audit --db "$$advisories" --no-fetch --stale --deny warnings
	elif [ "$${CI:-}" = true ]; then
	    echo "error: no advisory database at $$advisories" >&2; exit 1
	else
	    cargo audit --deny warnings || echo "skipped: known vulnerabilities (no advisory database offline)" >&2
	fi

rust-tests: ## Unit, property, golden, database, broker and path tests
	@$(SETUP) cargo build $(ALL)
	take_yamnet $(CARGO_TARGET_DIR)/debug
	cargo nextest run $(ALL)

# Those that look into the SQLite file, or give a command the data directory alone, are left out.
postgres-tests: ## The tests of accounts, stations and the original's interface, with PostgreSQL
	@$(SETUP) need_test_tools
	cargo build $(ALL)
	take_yamnet $(CARGO_TARGET_DIR)/debug
	ECOSIGHT_TEST_POSTGRES=1 cargo nextest run $(ALL) -E 'binary(cloud) & (test(/^access::/) | test(/^fleet::/) | test(/^original::/)) & not (test(changed_line_shows) | test(taken_elsewhere) | test(mosquitto_lets) | test(wants_an_administrator))'

soak: ## Endurance at the size of the promises: outages, kills, a day, power cuts (as root), shot to alert (hours)
	@$(SETUP) cargo build $(ALL)
	take_yamnet $(CARGO_TARGET_DIR)/debug
	ECOSIGHT_SOAK=1 cargo nextest run --profile soak $(ALL) -E 'package(ecosight-agent) & test(endurance) or package(ecosight-loadtest) & binary(path)' --no-capture --no-fail-fast
	$(MAKE) --no-print-directory bench-alerts

deb: ## The agent's Debian package (TARGET=aarch64, armv7 or amd64)
	@exec cross/build $(or $(TARGET),aarch64)

cross-test: ## The Raspberry Pi's program in an emulator hears what this machine's does (a long build: not in test)
	@exec cross/test $(or $(TARGET),aarch64)

page: ## Rebuild the page; fails if the committed build differs
	@$(SETUP) need_node
	cd cloud-api/dashboard
	npm ci --no-audit --no-fund --loglevel=error
	npm run --silent build
	git diff --exit-code --stat -- dist || { echo "error: cloud-api/dashboard/dist is not what its sources give: commit the rebuilt page" >&2; exit 1; }

page-tests: ## The page in Chromium
	@$(SETUP) cd cloud-api/dashboard
	[ -d node_modules ] || npm ci --no-audit --no-fund --loglevel=error
	npm test --silent

demo-test: ## The demo as a user runs it, checked in Chromium, then stopped
	@exec deploy/demo/test

train-compact: ## Train the compact network (DATA=manifest.csv) and make its bundle (OUT=dir VERSION=)
	@exec models/train-compact/run

RECORDINGS ?= $${ECOSIGHT_SHARED:-../shared}/audio/manifest.csv
HEAD := models/artifacts/gunshot-yamnet

# What the shipped head was made with; its evaluation.json says the same. Two near shots of the collection sound like
# one recording and lie in different folds (docs/hearing.md, “Leaks”).
LEARN = --data "$(RECORDINGS)" --recipe models/recipes/full.json --alarms-per-hour 3 --allow-leaks

train: ## Train the head on YAMNet as the shipped one was, and replace it (RECORDINGS=manifest.csv VERSION= OUT=dir)
	@$(SETUP) cargo build $(ALL)
	$(CARGO_TARGET_DIR)/debug/ecosight-models train $(LEARN) --networks 1 \
	    --name gunshot-yamnet --version "$(or $(VERSION),0.2.0)" --out "$(or $(OUT),$(HEAD))"
	touch models/src/bundle.rs

REPORT ?= $(CARGO_TARGET_DIR)/evaluation
# Recall may differ by so much from what is committed: a processor of another kind rounds otherwise.
WITHIN := 0.03
evaluate: ## Judge the shipped recipe again, write REPORT/evaluation.{json,html}, fail if the committed figures are others
	@$(SETUP) cargo build $(ALL)
	$(CARGO_TARGET_DIR)/debug/ecosight-models train $(LEARN) --networks $(or $(NETWORKS),1) --random-split \
	    --report "$(REPORT)" --against $(HEAD)/evaluation.json --within $(WITHIN)

# The compact bundle and the folder in which `make train-compact` trained it.
COMPACT := models/artifacts/compact-1
train-second-ear: ## Judge the recipe with synthetic material and the compact network beside it (docs/hearing.md); writes nothing
	@$(SETUP) cargo build $(ALL)
	$(CARGO_TARGET_DIR)/debug/ecosight-models train --data "$(RECORDINGS)" --recipe models/recipes/second-ear.json \
	    --alarms-per-hour 3 --allow-leaks --networks 1 --scenes 48 --staged 384 \
	    --compact $(COMPACT) --compact-work "$${COMPACT_WORK:-$$ECOSIGHT_CACHE/train-compact}"

bench: ## Measure; prints the tables of docs/benchmarks.md
	@exec models/reference/bench

bench-inference: ## Measure inference beside XNNPACK and ONNX Runtime, layer by layer
	@exec models/reference/bench --inference

bench-training: ## Time the training of a head beside Keras; fails if a limit is missed
	@exec models/reference/bench --training

bench-speech: ## Measure what the privacy filter takes out, and what else (RECORDINGS=manifest.csv; utterances of espeak-ng)
	@$(SETUP) need_compiler; need_rust
	cargo build --release --workspace --all-features --bins --examples
	take_yamnet $(CARGO_TARGET_DIR)/release >&2
	$(CARGO_TARGET_DIR)/release/examples/speech "$(RECORDINGS)"

bench-api: ## Measure the server: /predict, overload, ingest
	@exec loadtest/bench-api $(SECONDS_EACH) $(INGEST_SECONDS)

bench-rollout: ## A rollout to 1,000 simulated stations: all within 120 s, and halted in its first cohort where 5 % fail
	@exec loadtest/bench-rollout

bench-alerts: ## Measure sound to alert: 240 shots, four stations at real time (nine minutes)
	@$(SETUP) need_compiler; need_rust
	cargo build --release --workspace --all-features --bins --examples
	take_yamnet $(CARGO_TARGET_DIR)/release
	$(CARGO_TARGET_DIR)/release/ecosight-load alerts --at-least 200

EVENTS ?= 10000000
bench-lists: ## Measure the API's lists over many events in PostgreSQL (EVENTS=10000000)
	@exec loadtest/bench-lists $(EVENTS)

contract: ## Made-up requests against the API's own description (Schemathesis)
	@exec loadtest/contract

USERS ?= 100
SECONDS ?= 300
load: ## The Locust file against a server of its own (USERS=100 SECONDS=300 HOST=)
	@exec loadtest/load $(USERS) $(SECONDS)

openapi: ## Rewrite cloud-api/openapi.json from the code
	@$(SETUP) cargo build $(ALL)
	$(CARGO_TARGET_DIR)/debug/ecosight-cloud openapi > $(CARGO_TARGET_DIR)/openapi.json
	mv $(CARGO_TARGET_DIR)/openapi.json cloud-api/openapi.json

fmt: ## Format everything
	cargo fmt --all

clean: ## Remove build output
	cargo clean
