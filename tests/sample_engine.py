"""An engine for tests: its file is the model in memory, and each layer takes the time that it is said to."""

import time

from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.model.links import links_of

#: seconds of a layer with a weight
PLAIN, QUANTIZED = 8e-4, 2e-4


class SampleEngine(Engine):
    name = "sample"
    suffix = ".sample"
    version = "1"

    def __init__(self):
        self.models = {}
        self.written = []

    def write(self, model, example_inputs, path, *, forward=None, dynamic=("batch",), **options):
        self.models[path] = model
        self.written.append(model)
        path.write_bytes(b"")
        return Written(path)

    def open(self, path, *, threads=1, results=None):
        return SampleSession(self.models[path])


class SampleSession(Session):
    def __init__(self, model):
        layers = [module for module in model.modules() if "weight" in module._parameters]
        self.seconds = sum(QUANTIZED if links_of(layer) else PLAIN for layer in layers)

    def run(self, example_inputs):
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return ()
