# `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help tools build deb test soak workloads demo bench lint fmt deny audit clean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r target what; do printf '  make %-8s %s\n' "$$target" "$$what"; done

tools: ## installs or builds what test and demo need, into a cache outside the checkout; prints its bin folder last
	@tests/tools/install

build: ## builds saddlebag
	cargo build --locked

deb: tools ## the Debian package, with man pages and completions; prints its path last
	@tests/tools/package

test: tools ## every lane of tests (LANES="pure nomad" for some); with CI=true a skipped test fails
	@tests/tools/run-tests $(LANES)

soak: tools ## 20 minutes of everything killed and collected at random (SADDLEBAG_SOAK_SEED=N repeats a run)
	@tests/tools/soak

workloads: tools ## databases on each kind of volume, killed again and again for minutes; prints how fast each was
	@tests/tools/workloads

demo: tools build ## a job keeps its data through stop, purge and garbage collection; KEEP=1 leaves it running
	@tests/tools/demo

bench: tools ## hooks, memory, restarts and real jobs beside the kernel's own limits; BENCH_QUICK=1 takes less
	@tests/tools/bench

lint: ## formatting, clippy, scripts
	@tests/tools/run-tests fmt clippy scripts

fmt: ## formats the code
	cargo fmt --all

deny: ## licences, banned crates and sources of the dependencies
	@PATH="$${SADDLEBAG_TOOLS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/saddlebag-tools}/bin:$$PATH" cargo deny --locked check bans licenses sources

audit: ## known vulnerabilities of the dependencies; needs the network
	@PATH="$${SADDLEBAG_TOOLS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/saddlebag-tools}/bin:$$PATH" cargo deny --locked check advisories

clean: ## removes what cargo has built
	cargo clean
