"""Recipes of SparseML and llm-compressor, written for these tests: converted, loaded, run; what comes out is measured."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from sample_models import batches, conv_net, mlp, train, weights, zeros
from sample_models import size as total

from paredown import Recipe, ScheduledManager
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.new_file import text_of

FOLDER = Path(__file__).parent / "recipes"
STEPS = 10


@dataclass
class Run:
    recipe: Recipe
    model: torch.nn.Module
    rates: list = field(default_factory=list)
    #: share of zeros after each epoch, 0 first
    sparsities: list = field(default_factory=list)
    #: the same after each step
    steps: list = field(default_factory=list)

    def of(self, name):
        weight = self.model.get_submodule(name).weight.detach()
        return float((weight == 0).float().mean())

    def note(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.steps.append(zeros(self.model) / total(self.model))

    def rate(self, epoch):
        """The learning rate of the first step of an epoch (its fraction times ten steps)."""
        return self.rates[round(epoch * STEPS)]

    @property
    def modifiers(self):
        return self.recipe.resolved()["modifiers"]


def converted(name, folder):
    path = FOLDER / name
    new = folder / "new.yaml"
    new.write_text(text_of(convert(path.read_text(), path.name), path.name))
    return Recipe.load(new)


def trained(recipe, model, epochs, image):
    run = Run(recipe, model, sparsities=[zeros(model) / total(model)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    manager = ScheduledManager(recipe)
    manager.modify(model, optimizer, steps_per_epoch=STEPS)
    run.rates.append(optimizer.param_groups[0]["lr"])
    for _ in range(epochs):
        train(model, optimizer, batches(STEPS, image=image), 1, lambda: run.note(optimizer))
        run.sparsities.append(zeros(model) / total(model))
    manager.finalize()
    return run


def share(reached):
    return pytest.approx(reached, abs=0.004)


def all_layers(reached):
    def check(run):
        assert [run.of(name) for name in ("0", "2", "4")] == [share(reached)] * 3

    return check


def cubic(run):
    all_layers(0.8)(run)
    assert run.steps[24] == share(0.8 - 0.75 * (1 - 1.5 / 3) ** 3)
    assert run.sparsities[4:] == [share(0.8)] * 2


def inverse_cubic(run):
    all_layers(0.7)(run)
    assert run.steps[24] == share(0.05 + 0.65 * (1 - (1 - 1.5 / 3) ** (1 / 3)))


def named(run):
    assert [run.of(name) for name in ("0", "2", "4")] == [share(0.6), share(0.6), 0]
    assert run.sparsities[2] > run.sparsities[1]
    assert run.modifiers["prune"]["targets"] == ["0", "2"]


def global_share(run):
    assert run.sparsities[-1] == share(0.75)
    assert len({round(run.of(name), 3) for name in ("0", "2", "4")}) > 1


def blocks(shape):
    def check(run):
        assert run.sparsities[-1] == pytest.approx(0.5, abs=0.01)
        for weight in weights(run.model):
            tiles = weight.unfold(0, shape[0], shape[0]).unfold(1, shape[1], shape[1]).flatten(2)
            assert {float(one) for one in (tiles == 0).float().mean(-1).flatten()} == {0.0, 1.0}

    return check


def two_of_four(run):
    for weight in weights(run.model):
        assert ((weight.view(-1, 4) == 0).sum(1) == 2).all()


def filters(run):
    for layer in (run.model.stem, run.model.body):
        gone = (layer.weight == 0).flatten(1).all(1)
        assert gone.sum() == layer.out_channels // 2
    assert run.of("head") == 0


def by_layer(run):
    assert [run.of(name) for name in ("0", "2", "4")] == [share(0.5), share(0.8), share(0.8)]


def kept(run):
    assert run.sparsities == [share(0.5)] * len(run.sparsities)


def kept_until(run):
    assert run.sparsities[:3] == [share(0.5)] * 3
    assert run.sparsities[3] < 0.1


def alternating(run):
    assert run.sparsities[-1] == share(0.75)
    assert [run.steps[14], run.steps[34]] == [share(0.75)] * 2
    assert run.steps[25] < 0.1
    assert run.modifiers["acdc"]["scope"] == "global"


def total_share(kind, reached, **fields):
    def check(run):
        assert run.sparsities[-1] == share(reached)
        (new,) = [new for new in run.modifiers.values() if new["type"] == kind]
        assert {name: new[name] for name in fields} == fields

    return check


def twice(run):
    assert run.sparsities[2] == share(0.5)
    assert run.sparsities[-2:] == [share(0.9)] * 2


def let_go(run):
    assert run.sparsities[4] == share(0.5)
    assert run.sparsities[5] < 0.1


def rates(**wanted):
    def check(run):
        found = {name: run.rate(float(name[1:].replace("_", "."))) for name in wanted}
        assert found == {name: pytest.approx(rate, rel=1e-6, abs=1e-9) for name, rate in wanted.items()}

    return check


def frozen(run):
    before = mlp()
    assert torch.equal(before[2].weight, run.model[2].weight) is False
    freeze = run.modifiers["freeze"]
    assert freeze["targets"] == ["re:2[.].*", "0.weight"]
    assert freeze["end"] == 3


def quantized(*names, **fields):
    def check(run):
        (new,) = [new for new in run.modifiers.values() if new["type"].endswith("quantization_aware_training")]
        assert {name: new[name] for name in fields} == fields
        for name in names:
            assert dict(run.model.get_submodule(name).named_buffers()), f"{name} has no scales"

    return check


def unquantized(*names):
    def check(run):
        assert [name for name in names if dict(run.model.get_submodule(name).named_buffers())] == []

    return check


def both(*checks):
    return lambda run: [check(run) for check in checks]


def distilled(kind, **fields):
    def check(run):
        (new,) = run.modifiers.values()
        assert new["type"] == kind
        assert {name: new[name] for name in fields} == fields

    return check


def card(run):
    prune = run.modifiers["prune"]
    assert (prune["start"], prune["end"], prune["every"]) == (1, 4, 0.5)
    assert prune["targets"] == ["0", "re:2.*"]
    assert [run.of(name) for name in ("0", "2", "4")] == [share(0.85), share(0.85), 0]
    assert run.rate(0) == pytest.approx(0.05)
    assert run.rates[-1] == pytest.approx(0.0005)


def everything(run):
    assert [run.of(name) for name in ("stem", "body", "head")] == [pytest.approx(0.8, abs=0.01)] * 3
    assert run.rate(1) == 0.05
    assert run.rates[-1] == pytest.approx(0.0001)
    assert list(run.modifiers) == ["learning_rate", "learning_rate_2", "weight_decay", "prune", "quantize", "distill"]
    assert run.modifiers["weight_decay"] == {"type": "weight_decay", "start": 4, "final": 0.0, "curve": "constant"}
    assert run.modifiers["quantize"]["freeze_batch_norm"] == 5


def staged(run):
    assert run.sparsities[2:] == [share(0.7)] * 5
    assert run.rate(4) == 0.01
    assert list(run.modifiers) == ["prune", "learning_rate"]


CASES = {
    "gm_cubic.yaml": cubic,
    "gm_linear_named.yaml": named,
    "gm_inverse_cubic.yaml": inverse_cubic,
    "global_magnitude.yaml": global_share,
    "gm_global_deprecated.yaml": global_share,
    "block4.yaml": blocks((1, 4)),
    "block_custom.yaml": blocks((2, 2)),
    "two_of_four.yaml": two_of_four,
    "structured_filters.yaml": filters,
    "final_by_layer.yaml": by_layer,
    "constant.yaml": kept,
    "constant_until.yaml": kept_until,
    "acdc.yaml": alternating,
    "movement.yaml": total_share("movement_pruning", 0.6, scope="local"),
    "obs.yaml": total_share("fisher_pruning", 0.6, scope="global", gradients=8, block_size=4),
    "mfac.yaml": total_share("fisher_pruning", 0.6, scope="local", gradients=8, block_size=4),
    "rigl.yaml": total_share("rigl", 0.7, scope="local", drop=0.3),
    "pruned_twice.yaml": twice,
    "let_go.yaml": let_go,
    "rates_set.yaml": rates(_0=0.1, _1_9=0.1, _2=0.01, _3_9=0.01, _4=0.001, _4_9=0.001),
    "rates_warm_up_cosine.yaml": rates(_0=0.0, _0_5=0.05, _1=0.1, _3=0.0505, _5=0.001),
    "rates_cyclic.yaml": rates(_0=0.1, _1=0.055, _2=0.1, _3=0.055, _4=0.1, _5=0.01),
    "rates_multi_step.yaml": rates(_0=0.1, _1_9=0.1, _2=0.01, _3_9=0.01, _4=0.001, _5=0.001),
    "rates_step.yaml": rates(_0=0.1, _1_9=0.1, _2=0.05, _4=0.025, _5=0.025),
    "rates_exponential.yaml": rates(_0=0.1, _0_9=0.1, _1=0.05, _2=0.025, _4_9=0.1 / 16),
    "rates_restarts.yaml": rates(_0=0.1, _0_5=0.0505, _1=0.1, _2=0.0505, _3=0.1, _5=0.0505),
    "frozen.yaml": frozen,
    "quantized_fields.yaml": both(quantized("0", "2", start=2, freeze_observers=3.5), unquantized("4")),
    "quantized_scheme.yaml": both(quantized("0", ignore=["2"]), unquantized("2", "4")),
    "quantized_default.yaml": quantized("0", "2", "4", overrides={"Linear": {"activations": None}}),
    "distilled.yaml": distilled("knowledge_distillation", weight=0.5, temperature=2.0),
    "distilled_layers.yaml": distilled("feature_distillation", mode="add", weight=1.5, pairs={"0": "0", "2": "2"}),
    "card_with_variables.md": card,
    "card_everything.md": everything,
    "stages_with_tags.yaml": staged,
    "stage_magnitude.yaml": total_share("magnitude_pruning", 0.7, scope="global", curve="linear"),
    "stage_constant.yaml": kept,
    "llm_magnitude_tuned.yaml": both(
        all_layers(0.6), lambda run: run.modifiers["distill_features"]["pairs"]["2"] == "2"
    ),
    "leftovers.yaml": total_share("magnitude_pruning", 0.5 * 16 / 52, targets=["0"]),
}
PRUNED_BEFORE = {"constant.yaml", "constant_until.yaml", "stage_constant.yaml"}
IMAGES = {"structured_filters.yaml", "card_everything.md"}


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_for_training_runs_as_it_did(name, tmp_path):
    recipe = converted(name, tmp_path)
    model = conv_net() if name in IMAGES else mlp()
    if name in PRUNED_BEFORE:
        for weight in weights(model):
            weight.flatten()[::2] = 0
    epochs = int(recipe.resolved()["run"]["epochs"])
    CASES[name](trained(recipe, model, epochs, name in IMAGES))


def wide():
    return mlp(width=128, inputs=128)


def applied(name, folder):
    recipe = converted(name, folder)
    model = wide()
    ScheduledManager(recipe).apply(model, data=[x for x, _ in batches(4, inputs=128)])
    return Run(recipe, model)


def half_of_the_inner(run):
    assert [run.of(name) for name in ("0", "2", "4")] == [share(0.5), share(0.5), 0]
    assert run.modifiers["prune"]["ignore"] == ["4"]


def sparse_and_fp8(run):
    assert [run.of(name) >= 0.5 for name in ("0", "2")] == [True, True]
    assert run.modifiers["prune"]["structure"] == "2:4"
    assert run.modifiers["quantize"]["type"] == "static_quantization"
    assert "keep_zeros" not in run.modifiers


def types(*wanted):
    def check(run):
        assert [new["type"] for new in run.modifiers.values()] == list(wanted)

    return check


ONE_SHOT = {
    "oneshot_sparsegpt.yaml": lambda run: run.of("0") == share(0.6) and run.of("2") == share(0.6) and run.of("4") == 0,
    "oneshot_wanda.yaml": half_of_the_inner,
    "oneshot_quantized.yaml": both(types("static_quantization"), unquantized("4")),
    "llm_awq.yaml": types("awq"),
    "llm_fp8_dynamic.yaml": both(types("dynamic_quantization"), unquantized("4")),
    "llm_two_groups.yaml": types("static_quantization", "weight_quantization"),
    "llm_sparse_fp8.yaml": sparse_and_fp8,
    "llm_at_root.yaml": types("gptq"),
}


@pytest.mark.parametrize("name", ONE_SHOT)
def test_a_recipe_without_training_is_applied(name, tmp_path):
    run = applied(name, tmp_path)
    assert "run" not in run.recipe.resolved() or "epochs" not in run.recipe.resolved()["run"]
    assert ONE_SHOT[name](run) is not False
    x = batches(1, inputs=128)[0][0]
    with torch.no_grad():
        wanted = wide()(x)
        assert 0 < (run.model(x) - wanted).norm() / wanted.norm() < 1


def test_smoothing_and_gptq_of_a_model_with_the_layers_that_it_names(tmp_path):
    recipe = converted("llm_smooth_gptq.yaml", tmp_path)
    modifiers = recipe.resolved()["modifiers"]
    assert [new["type"] for new in modifiers.values()] == ["smoothquant", "gptq", "dynamic_quantization"]
    assert modifiers["smoothquant"]["strength"] == 0.8
    assert modifiers["gptq"]["damping"] == 0.05
    model = mlp()
    ScheduledManager(recipe).apply(model, data=[x for x, _ in batches(4)])
    x = batches(1)[0][0]
    with torch.no_grad():
        assert (model(x) - mlp()(x)).norm() / mlp()(x).norm() < 0.1


def test_presets_for_some_layers_each(tmp_path):
    modifiers = converted("llm_listed.yaml", tmp_path).resolved()["modifiers"]
    assert modifiers["quantize"]["weights"]["bits"] == 4
    assert (modifiers["quantize_2"]["targets"], modifiers["quantize_2"]["ignore"]) == (["2"], ["0"])


def test_sparsegpt_in_a_stage_before_training(tmp_path):
    recipe = converted("stages_sparsegpt_tuned.yaml", tmp_path)
    assert list(recipe.resolved()["modifiers"]) == ["prune"]
    assert recipe.resolved()["run"]["epochs"] == 3
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    manager = ScheduledManager(recipe)
    manager.modify(model, optimizer, steps_per_epoch=STEPS, data=[x for x, _ in batches(4)])
    train(model, optimizer, batches(STEPS), 3)
    manager.finalize()
    assert [float((weight == 0).float().mean()) for weight in weights(model)] == [0.5] * 3


def test_every_file_is_run():
    others = {"llm_smooth_gptq.yaml", "llm_listed.yaml", "stages_sparsegpt_tuned.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == {*CASES, *ONE_SHOT, *others}
