# make demo and make test are all that a newcomer needs; both install what is missing first. `make` alone lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .build/venv
REQUIREMENTS := Tests/EndToEnd/requirements.txt
BINARY := .build/release/swiftlet
# Linked statically, the program needs no Swift on the machine where it runs, and starts without loading Foundation's libraries.
BUILD_FLAGS := -c release --static-swift-stdlib --product swiftlet
# What a routing decision costs: .build/release/swiftlet-benchmarks prints it, the end-to-end tests count it.
BENCHMARK_FLAGS := -c release --static-swift-stdlib --product swiftlet-benchmarks
# In a folder of its own, so that it may be built while the release is.
UNIT_FLAGS := --scratch-path .build/unit
LINTED := Package.swift Sources Tests
# Passed to the demo: --exit ends it after its table.
DEMO_FLAGS ?=
# Passed to pytest: -k NAME, -x.
PYTEST_FLAGS ?=
BENCH ?= ../shared/bench
BENCH_ROWS ?= R1 R3 R5 R6h1 R7
BENCH_RUNS ?= 5
# Names of proxies with commas between them; all that do the row by default.
BENCH_PEERS ?=

# The rules of `make simulate`, ours first: all that are published, as they are and tuned, when it is empty.
SIMULATE_RULES ?=
SIMULATE_ROWS ?=
SIMULATE_SEEDS ?= 3
# Of `make simulate-suite`, which judges: seeds that nothing was tuned on.
SUITE_SEED ?= 3001
SUITE_THREADS ?= 1

# What the Swift toolchain itself runs on, what it needs to compile C and C++ and to link, and our C libraries.
APT_SWIFT := libncurses6 libsqlite3-0 libcurl4 libxml2 binutils libc6-dev libstdc++-12-dev pkg-config git ca-certificates tzdata
APT_BUILD := libnghttp2-dev libssl-dev libsimdjson-dev libxxhash-dev libc-ares-dev libprotobuf-c-dev protobuf-c-compiler
# Clients and tools of the tests.
APT_TESTS := chromium libhttp-parser-dev python3 python3-venv curl openssl nghttp2-client nghttp2-proxy nghttp2-server strace valgrind
# Whom `make compare-strictness` asks besides.
APT_COMPARED := nginx-light haproxy

.PHONY: help deps deps-system deps-python build demo simulate simulate-suite test sanitize soak kubernetes-load replica-sync fuzz fuzz-merge lint format proto bench bench-stub bench-tables bench-peers bench-overhead bench-fleet bench-fleet-trace bench-accuracy compare-strictness clean

help: ## Lists the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 27

deps: deps-system deps-python ## Installs what is missing: Debian packages, Python clients under .build/venv

deps-system:
	@missing=""
	for package in $(APT_SWIFT) $(APT_BUILD) $(APT_TESTS); do
		[[ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null)" == installed ]] || missing+=" $$package"
	done
	# kubectl may be there from elsewhere, and Debian's package would not install over it.
	command -v kubectl >/dev/null || missing+=" kubernetes-client"
	if [[ -n "$$missing" ]]; then
		echo "== deps: installing Debian packages:$$missing"
		root=""
		if [[ $$(id -u) != 0 ]]; then
			command -v sudo >/dev/null || { echo "make deps: run as root, or install by hand:$$missing" >&2; exit 1; }
			root=sudo
		fi
		$$root apt-get update -q
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing
	else
		echo "== deps: Debian packages are there"
	fi
	command -v swift >/dev/null || { echo "make deps: Swift 6.3 is missing; see https://www.swift.org/install/linux" >&2; exit 1; }

deps-python: $(VENV)/.ready
	@echo "== deps: Python clients are there ($(VENV))"

# Debian's python3 knows venv by now; another one that comes first in PATH may be too old, or lack it.
$(VENV)/.ready: $(REQUIREMENTS) | deps-system
	@echo "== deps: Python clients into $(VENV)"
	for python in python3 /usr/bin/python3; do
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	done
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	touch $@

build: ## Makes the release binary, .build/release/swiftlet
	@echo "== build: swift build $(BUILD_FLAGS)"
	swift build $(BUILD_FLAGS)

demo: deps build ## Routes a conversation workload over four simulated groups, round robin against least cost
	@$(BINARY) demo $(DEMO_FLAGS)

simulate: build ## Routing rules compared on a virtual clock: SIMULATE_ROWS, SIMULATE_SEEDS, SIMULATE_RULES; the page is .build/simulate.html
	@$(BINARY) simulate --suite --seeds $(SIMULATE_SEEDS) --rows '$(SIMULATE_ROWS)' $(if $(SIMULATE_RULES),--policy '$(SIMULATE_RULES)') \
		--json .build/simulate.json --csv .build/simulate.csv --html .build/simulate.html

simulate-suite: build ## The judgement, some 50 minutes on one core: all rules, rivals, ablation, 1 to 64 routers; pages .build/suite-*.html, SUITE_SEED
	@judge() {
		name=$$1; shift; begin=$$SECONDS
		echo "== $$name"
		$(BINARY) simulate --threads $(SUITE_THREADS) "$$@" \
			--json .build/suite-$$name.json --csv .build/suite-$$name.csv --html .build/suite-$$name.html >.build/suite-$$name.txt
		# The tables of single rows stay in the file.
		sed -nE '/( against the best of the others on each row: .*|^Routers by the age of reports)$$/,$$p' .build/suite-$$name.txt
		echo "== $$name took $$((SECONDS - begin)) s"
	}
	judge rules --suite --seed $(SUITE_SEED) --seeds 3
	judge rivals --suite --seed $$(($(SUITE_SEED) + 1000)) --seeds 12 --rivals .build/suite-rules.json
	judge ablation --suite --ablate --seed $(SUITE_SEED) --seeds 3
	judge routers --grid --seed $(SUITE_SEED) --seeds 3 --policy least-cost

test: ## Everything that must hold: build, lint, unit tests, end-to-end tests with real clients
	@step=start; others=""
	trap '[[ $$? == 0 ]] || echo "make test: FAILED in step: $$step"; [[ -z $$others ]] || kill -- -$$others 2>/dev/null || true' EXIT
	step="deps"; $(MAKE) --no-print-directory deps
	step="lint"; $(MAKE) --no-print-directory lint
	mkdir -p .build/logs
	# One build alone leaves half of the cores idle half of the time, and each has a folder of its own. Nothing that is measured runs meanwhile.
	step="dependencies of the builds"; swift package resolve
	echo "== test: builds of the unit tests and for the sanitizers begin beside the release build (.build/logs/builds.log)"
	set -m; { swift build --build-tests $(UNIT_FLAGS) && Tests/Sanitize/sanitize builds; } </dev/null >.build/logs/builds.log 2>&1 & others=$$!; set +m
	step="build"; $(MAKE) --no-print-directory build
	swift build $(BENCHMARK_FLAGS)
	step="builds of the unit tests and for the sanitizers"; echo "== test: waiting for the $$step"
	wait $$others || { others=""; grep -E 'error:' .build/logs/builds.log >&2 || tail -20 .build/logs/builds.log >&2; exit 1; }
	others=""; grep -E 'complete!' .build/logs/builds.log
	step="unit tests"; echo "== test: unit tests"
	swift test --skip-build $(UNIT_FLAGS) 2>&1 | tee .build/logs/unit.log | grep -vE '^◇|^[^✔✘↳]*started\.$$'
	step="end-to-end tests"; echo "== test: end to end, with real clients"
	SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python -m pytest -q Tests/EndToEnd $(PYTEST_FLAGS) 2>&1 | tee .build/logs/end-to-end.log
	step="soak"; echo "== test: soak, in short"
	SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/Soak/soak.py --minutes 0.33
	step="sanitizers"; Tests/Sanitize/sanitize short
	step="counting the tests"
	unit=$$(grep -oE 'Test run with [0-9]+ tests? .*passed' .build/logs/unit.log | tail -1 | grep -oE '[0-9]+' | head -1)
	clients=$$(grep -oE '[0-9]+ passed' .build/logs/end-to-end.log | tail -1 | grep -oE '[0-9]+')
	[[ "$$unit" -gt 0 && "$$clients" -gt 0 ]]
	echo "make test: everything holds ($$unit unit tests, $$clients end-to-end tests)"
	echo "total: $$((unit + clients)) passed, 0 failed"

sanitize: deps ## The data path under AddressSanitizer and ThreadSanitizer: all tests, and MINUTES of mixed traffic
	@Tests/Sanitize/sanitize full

soak: deps build ## Mixed traffic with dying engines for MINUTES=10: does the router end as it began?
	@SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/Soak/soak.py --minutes $${MINUTES:-10}

kubernetes-load: deps build ## How soon a change at the Kubernetes API takes effect, and what 10,000 endpoints that change cost
	@SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/Benchmarks/kubernetes_load.py

replica-sync: deps build ## What routers gain from telling one another what they do, and what it costs
	@SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/Benchmarks/replica_sync.py

fuzz: ## Fuzzes every border that hostile bytes cross, TIME seconds each: TIME=60, TARGETS
	@Tests/Fuzz/fuzz

fuzz-merge: ## Takes the inputs that `make fuzz` found, and that cover more, into the committed corpus: TARGETS
	@Tests/Fuzz/fuzz merge

lint: ## Checks the formatting
	@echo "== lint: swift format lint --strict"
	swift format lint --strict --parallel --recursive $(LINTED)

format: ## Formats in place
	@swift format format --in-place --parallel --recursive $(LINTED)

proto: ## Regenerates Sources/Protos from proto/
	@proto/generate

bench: build ## Compares with other proxies on this machine: BENCH_ROWS, BENCH_PEERS, BENCH_RUNS
	@[[ -x $(BENCH)/run.sh ]] || { echo "make bench: $(BENCH)/run.sh is not there; BENCH names its folder" >&2; exit 1; }
	for row in $(BENCH_ROWS); do SWIFTLET="$(CURDIR)/$(BINARY)" $(BENCH)/run.sh "$$row" "$(BENCH_PEERS)" $(BENCH_RUNS); done

bench-tables: ## Puts the stored results of `make bench` into the README's tables
	@python3 Tests/Comparison/peer_tables.py --write

bench-stub: deps build ## How late the stub's tokens leave and come: 2,000 streams over 16 engines, STREAMS, ENGINES, LOOPS, STUB_FLAGS="--http2 --even --realtime on"
	@SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/EndToEnd/stub_streams.py --streams $${STREAMS:-2000} \
		--replicas $${ENGINES:-16} --loops $${LOOPS:-2} $(STUB_FLAGS)

# Under a folder of their own: what the peers depend on is not ours.
PEERS := .build/peers
PEER_PACKAGES := haproxy nghttp2-proxy nginx-light python3-venv
OVERHEAD_PEERS ?= swiftlet,haproxy,nginx,nghttpx,envoy,smg,sglang-router,vllm-router
FLEET_PEERS ?= swiftlet,smg,sglang-router,vllm-router,envoy,round-robin
# Evenly, so that requests do not meet and queue; six pairs of neighbouring runs at each size. Longer ones measure finer.
OVERHEAD_FLAGS ?= --arrival constant --rate 200,100,40,12 --duration 1.2 --repeats 6
OVERHEAD_SIZES ?= 1024,32768,262144,1048576

bench-peers: $(PEERS)/.ready ## Installs the routers that `swiftlet bench fleet` and `bench overhead` compare with

$(PEERS)/.ready: config/bench/peers.txt
	@missing=""
	for package in $(PEER_PACKAGES); do
		[[ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null)" == installed ]] || missing+=" $$package"
	done
	command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] && missing="$${missing/ nginx-light/}"
	if [[ -n "$$missing" ]]; then
		echo "== bench-peers: installing Debian packages:$$missing"
		root=""; [[ $$(id -u) == 0 ]] || root=sudo
		$$root apt-get update -q
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing
	fi
	echo "== bench-peers: routers of PyPI into $(PEERS)"
	rm -rf $(PEERS)
	/usr/bin/python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r config/bench/peers.txt
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$$(grep ^smg== config/bench/peers.txt)"
	touch $@

bench-overhead: build bench-peers ## What each router adds to prompts of 1 KiB to 1 MiB, as one table: OVERHEAD_PEERS, OVERHEAD_FLAGS
	@mkdir -p .build/bench
	$(BINARY) bench overhead --peers $(OVERHEAD_PEERS) --prompt-bytes $(OVERHEAD_SIZES) $(OVERHEAD_FLAGS) \
		--stub-flags "--prefill-us-per-token 0 --decode-ms-per-token 0 --max-model-len 1000000 --kv-blocks 100000" \
		--json .build/bench/overhead.json --html .build/bench/overhead.html | tee .build/bench/overhead.txt

# The ladder and the trace at a tenth and a twenty-fifth of their lengths, before groups whose tokens take ten times as long as a large
# model's on current devices: the same seconds, with fewer bytes, so that two cores can play eight groups.
FLEET_GROUPS := --prefill-us-per-token 1000 --decode-ms-per-token 20 --decode-us-per-sequence 100 --kv-blocks 1280 --max-num-batched-tokens 1024
FLEET_FLAGS ?= --repeats 2 --duration 7 --warm-up 2 --drain 6
FLEET_RATES ?= 8,20,40
# Text, so that it may stand in the repository, for the README to show.
FLEET_PLOT ?= Tests/Comparison/fleet.svg
TRACE_PLOT ?= Tests/Comparison/trace.svg
TRACE ?= ../shared/traces/mooncake_synthetic_trace.jsonl
TRACE_RATES ?= 6,12,24
# The first rows of Mooncake's trace share next to nothing; of the last 500, half of the blocks have come before.
TRACE_SKIP ?= 3500

bench-fleet: build bench-peers ## The b2b-saas ladder through FLEET_PEERS before eight simulated groups: FLEET_RATES, FLEET_FLAGS, FLEET_PLOT
	@mkdir -p .build/bench
	$(BINARY) bench fleet --peers $(FLEET_PEERS) --groups 8 --workload b2b-saas --prompt-groups 40 --system-tokens 600 --input-tokens 120 \
		--output-tokens 100 --rates $(FLEET_RATES) $(FLEET_FLAGS) --goodput ttft:2000,tpot:100 --stub-flags "$(FLEET_GROUPS)" \
		--json .build/bench/fleet.json --html .build/bench/fleet.html --plot $(FLEET_PLOT) | tee .build/bench/fleet.txt

bench-fleet-trace: build bench-peers ## A trace through the same: TRACE, TRACE_RATES, FLEET_FLAGS
	@[[ -r $(TRACE) ]] || { echo "make bench-fleet-trace: $(TRACE) is not there; TRACE names a file" >&2; exit 1; }
	mkdir -p .build/bench
	$(BINARY) bench fleet --peers $(FLEET_PEERS) --groups 8 --trace $(TRACE) --trace-skip $(TRACE_SKIP) --length-scale 0.04 --rates $(TRACE_RATES) $(FLEET_FLAGS) \
		--goodput ttft:2000,tpot:100 --stub-flags "$(FLEET_GROUPS)" \
		--json .build/bench/trace.json --html .build/bench/trace.html --plot $(TRACE_PLOT) | tee .build/bench/trace.txt

bench-accuracy: build deps-python ## Is the bench itself exact? Against a server of known times, h2load and its own limits; wants a quiet machine
	@command -v nghttpd >/dev/null || { echo "make bench-accuracy: nghttpd is missing: apt-get install nghttp2-server" >&2; exit 1; }
	SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python Tests/Bench/accuracy.py

compare-strictness: build deps-python ## What this router, nginx and HAProxy (both of Debian) make of smuggled requests, as a table
	@missing=""
	for package in $(APT_COMPARED); do
		# Another of nginx's packages does as well, and Debian's light one would not install beside it.
		[[ -x "/usr/sbin/$${package%-light}" ]] || missing+=" $$package"
	done
	if [[ -n "$$missing" ]]; then
		echo "== compare-strictness: installing Debian packages:$$missing"
		root=""; [[ $$(id -u) == 0 ]] || root=sudo
		$$root apt-get update -q
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing
	fi
	SWIFTLET="$(CURDIR)/$(BINARY)" $(VENV)/bin/python -m pytest -q -s Tests/EndToEnd/test_compare_strictness.py

clean: ## Removes everything that was built, .build/venv included
	@rm -rf .build
