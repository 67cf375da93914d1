# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PARITY_DIR ?= tests/parity/data

.PHONY: env demo test lint format results benchmarks
env: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/vidistill demo

test: env lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --parity-dir $(PARITY_DIR)

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tables of docs/results.md: hours on two cores; they resume. Without the runs, the page of what is kept.
RUNS := utd_mhad utd_mhad_large jhmdb graph/utd_mhad graph/utd_mhad_streams graph/fir_room fewshot/jhmdb adaptive/jhmdb \
  generative/jhmdb generative/fir_room generative/jhmdb_streams ensemble/jhmdb ensemble/missing
results: env
	for recipe in $(RUNS); do $(BIN)/vidistill run recipes/$$recipe.yaml || exit 1; done
	$(BIN)/vidistill results $(addprefix runs/,$(subst /,_,$(RUNS))) --keep docs/results --output docs/results.md

benchmarks: env
	$(BIN)/python benchmarks/prepare.py runs/benchmarks/prepare.json
	$(BIN)/python benchmarks/distil.py runs/benchmarks/distil.json
	$(BIN)/python benchmarks/detection_metrics.py runs/benchmarks/detection_metrics.json
	$(BIN)/python benchmarks/trx.py runs/benchmarks/trx.json
	$(BIN)/python benchmarks/curriculum.py runs/benchmarks/curriculum.json
	$(BIN)/python benchmarks/stlt_padding.py runs/benchmarks/stlt_padding.json
	$(BIN)/python benchmarks/boundary_pooling.py runs/benchmarks/boundary_pooling.json
	$(BIN)/python benchmarks/data_pipeline.py runs/benchmarks/data_pipeline.json
	$(BIN)/python benchmarks/teacher_ensemble.py runs/benchmarks/teacher_ensemble.json
	$(BIN)/python benchmarks/merged_phases.py runs/benchmarks/merged_phases.json
	$(BIN)/python benchmarks/episode_evaluation.py runs/benchmarks/episode_evaluation.json
	$(BIN)/python benchmarks/page.py runs/benchmarks docs/benchmarks.md
