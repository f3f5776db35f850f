"""The Trainer callback beside a plain loop with the two lines."""

import shutil
import warnings

import pytest
import torch
from sample_models import ConvNet, pruning, recipe_of, size, zeros
from torch import nn
from trainers import EPOCHS, FOUR_FAMILIES, data, furthest, optimizer_of, plain, scalars_in

import paredown
from paredown.framework.errors import CheckpointError, ScheduleError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from paredown.integrations.huggingface import ParedownCallback, RecipeArguments  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Classifier(ConvNet):
    """Returns the loss, as models of transformers do."""

    def forward(self, x, labels):
        logits = super().forward(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


LENGTH = 12


def classifier(seed=0):
    torch.manual_seed(seed)
    return Classifier()


class InOrder(transformers.Trainer):
    def create_optimizer(self, *args):
        self.optimizer = self.optimizer or optimizer_of(self.model)
        return self.optimizer

    def create_scheduler(self, *args, **kwargs):
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        return self.lr_scheduler

    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def samples():
    return [{"x": x[place], "labels": y[place]} for x, y in data(LENGTH) for place in range(len(y))]


def trainer(folder, callback, model=None, epochs=EPOCHS, accumulate=1, built=False, **more):
    model = classifier() if model is None else model
    args = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0,
        **{"save_strategy": "no", "report_to": [], **more},
    )
    callbacks = [] if callback is None else [callback]
    optimizers = (optimizer_of(model) if built else None, None)
    return InOrder(
        model, args, train_dataset=samples(), eval_dataset=samples(), callbacks=callbacks, optimizers=optimizers
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_weights_are_those_of_a_plain_loop(accumulate, tmp_path):
    callback = ParedownCallback(FOUR_FAMILIES)
    run = trainer(tmp_path, callback, accumulate=accumulate)
    run.train()
    assert furthest(run.model, plain(accumulate, LENGTH)) <= 1e-6
    assert callback.manager.run.step == run.state.global_step == EPOCHS * LENGTH // accumulate
    assert callback.report.compressed.nonzeros < callback.report.dense.nonzeros


class Halt(transformers.TrainerCallback):
    """Stops after so many steps, with a checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(("accumulate", "stop"), [(1, 16), (1, 30), (1, 40), (4, 4), (4, 5), (4, 10)])
def test_a_run_that_is_resumed_in_a_window_ends_the_same(accumulate, stop, built, tmp_path):
    run = trainer(tmp_path, ParedownCallback(FOUR_FAMILIES, strict=False), accumulate=accumulate)
    run.add_callback(Halt(stop))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that targets are missed
        run.train()
    folder = tmp_path / f"checkpoint-{stop}"
    callback = ParedownCallback(FOUR_FAMILIES, resume_from_checkpoint=folder)
    again = trainer(tmp_path, callback, accumulate=accumulate, built=built)
    again.train(resume_from_checkpoint=str(folder))
    assert furthest(again.model, plain(accumulate, LENGTH)) <= 1e-6
    assert callback.manager.run.step == again.state.global_step == EPOCHS * LENGTH // accumulate


def test_a_checkpoint_in_the_output_folder_needs_no_telling(tmp_path):
    recipe = recipe_of(EPOCHS, prune=pruning(0.9))
    whole = trainer(tmp_path / "whole", ParedownCallback(recipe))
    whole.train()
    run = trainer(tmp_path / "half", ParedownCallback(recipe, strict=False))
    run.add_callback(Halt(20))
    with pytest.warns(UserWarning, match="its window ends"):
        run.train()
    again = trainer(tmp_path / "half", ParedownCallback(recipe))
    again.train(resume_from_checkpoint=True)
    assert furthest(again.model, whole.model) == 0


def test_the_teacher_is_kept_with_the_checkpoint(tmp_path):
    recipe = {**FOUR_FAMILIES}
    run = trainer(tmp_path, ParedownCallback(recipe, strict=False, save_teacher=True))
    run.add_callback(Halt(30))
    with pytest.warns(UserWarning, match="its window ends"):
        run.train()
    folder = tmp_path / "checkpoint-30"
    again = trainer(tmp_path, ParedownCallback(recipe, resume_from_checkpoint=folder), classifier(seed=5))
    again.train(resume_from_checkpoint=str(folder))
    assert furthest(again.model, plain(1, LENGTH)) <= 1e-6
    other = trainer(tmp_path, ParedownCallback(recipe), classifier(seed=5))
    shutil.copytree(folder, tmp_path / "without" / "checkpoint-30")
    state = torch.load(folder / "paredown.pt")
    torch.save({**state, "teacher": None}, tmp_path / "without" / "checkpoint-30" / "paredown.pt")
    with pytest.raises(CheckpointError, match="the initial teacher of the checkpoint was another model"):
        other = ParedownCallback(recipe, resume_from_checkpoint=tmp_path / "without" / "checkpoint-30")
        trainer(tmp_path, other, classifier(seed=5))


def test_the_best_model_is_never_one_from_before_the_targets_were_reached(tmp_path):
    """The dense model of the first epochs is the best by any measure."""
    more = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_zeros",
        "greater_is_better": False,  # the fewer zeros, the better: the trap
    }
    callback = ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9, end=3)))
    run = trainer(tmp_path, callback, **more)
    run.compute_metrics = lambda prediction: {"zeros": float(zeros(run.model))}
    run.train()
    assert run.state.best_global_step in (3 * LENGTH, 4 * LENGTH)
    assert zeros(run.model) == pytest.approx(0.9 * size(run.model), abs=0.5)


def test_an_early_best_model_of_a_resumed_run_is_forgotten(tmp_path):
    recipe = recipe_of(EPOCHS, prune=pruning(0.9))
    run = trainer(tmp_path, ParedownCallback(recipe, strict=False))
    run.add_callback(Halt(20))
    with pytest.warns(UserWarning, match="its window ends"):
        run.train()
    file = tmp_path / "checkpoint-20" / "trainer_state.json"
    state = transformers.TrainerState.load_from_json(str(file))
    state.best_metric, state.best_model_checkpoint, state.best_global_step = 0.0, str(file.parent), 20
    state.save_to_json(str(file))
    again = trainer(tmp_path, ParedownCallback(recipe))
    again.train(resume_from_checkpoint=str(file.parent))
    assert again.state.best_model_checkpoint is None


def test_a_recipe_longer_than_the_training_is_refused(tmp_path):
    run = trainer(tmp_path, ParedownCallback(recipe_of(5, prune=pruning(0.9))), epochs=3)
    with pytest.raises(ScheduleError, match=r"takes 5 epochs \(60 optimizer steps\).*stops after 3 \(36 steps\)"):
        run.train()
    assert zeros(run.model) == 0


def test_a_checkpoint_without_a_recipe_is_refused(tmp_path):
    dense = trainer(tmp_path, None)
    dense.add_callback(Halt(20))
    dense.train()
    run = trainer(tmp_path, ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9))))
    with pytest.raises(CheckpointError, match="written without this callback"):
        run.train(resume_from_checkpoint=True)


def test_a_script_takes_a_recipe_as_an_argument(tmp_path):
    parser = transformers.HfArgumentParser([RecipeArguments])
    (arguments,) = parser.parse_args_into_dataclasses(["--recipe", "prune90", "--recipe_overrides", "run.epochs=30"])
    (callback,) = arguments.callbacks(strict=False)
    assert callback.manager.recipe.run_epochs == 30
    assert not callback.strict
    assert RecipeArguments().callbacks() == []


def test_a_stream_shares_its_steps_among_the_epochs(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from samples() * EPOCHS

    run = trainer(tmp_path, ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9))), max_steps=EPOCHS * LENGTH)
    run.train_dataset = Stream()
    run._get_train_sampler = None
    run.train()
    assert zeros(run.model) == pytest.approx(0.9 * size(run.model), abs=0.5)


def test_a_trainer_that_builds_its_model_anew_and_one_that_trains_twice(tmp_path):
    recipe = recipe_of(EPOCHS, prune=pruning(0.9), svd={**FOUR_FAMILIES["modifiers"]["svd"], "start": 0})
    whole = trainer(tmp_path, ParedownCallback(recipe))
    whole.train()
    args, callback = whole.args, ParedownCallback(recipe)
    again = InOrder(args=args, model_init=lambda: classifier(), train_dataset=samples(), callbacks=[callback])
    again.train()
    assert furthest(again.model, whole.model) == 0
    second = trainer(tmp_path, ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9))))
    second.train()
    first = zeros(second.model)
    second.optimizer = None
    second.train()
    assert zeros(second.model) == first == pytest.approx(0.9 * size(second.model), abs=0.5)


def test_a_training_that_broke_off_goes_on_in_the_same_process(tmp_path):
    class Break(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 25 and not broken:
                broken.append(True)
                raise KeyboardInterrupt

    broken, recipe = [], recipe_of(EPOCHS, prune=pruning(0.5))
    whole = trainer(tmp_path / "whole", ParedownCallback(recipe))
    whole.train()
    run = trainer(tmp_path / "broken", ParedownCallback(recipe), save_strategy="steps", save_steps=20)
    run.add_callback(Break())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train(resume_from_checkpoint=True)
    assert furthest(run.model, whole.model) == 0


RATE = {"type": "learning_rate", "initial": 0.05, "final": 0.01}


@pytest.mark.parametrize("resumed", [False, True])
def test_the_recipes_learning_rate_wins_over_the_trainers_schedule(resumed, tmp_path):
    class Linear(InOrder):
        """With the schedule that the Trainer makes by itself."""

        create_scheduler = transformers.Trainer.create_scheduler

    recipe = recipe_of(EPOCHS, rate=RATE, prune=pruning(0.5, targets=["body"]))
    seen = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            seen.append(kwargs["optimizer"].param_groups[0]["lr"])

    def run(**more):
        args = trainer(tmp_path, None, save_strategy="steps", save_steps=20, warmup_steps=5, logging_steps=1).args
        callbacks = [ParedownCallback(recipe), Watch()]
        return Linear(classifier(), args, train_dataset=samples(), callbacks=callbacks).train(**more), callbacks[0]

    run()
    if resumed:
        seen.clear()
        run(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    steps = EPOCHS * LENGTH
    wanted = [0.05 - 0.04 * step / steps for step in range(20 if resumed else 0, steps)]
    assert seen == pytest.approx(wanted)


def test_a_scheduler_that_the_user_gives_beside_the_recipes_is_refused(tmp_path):
    model = classifier()
    optimizer = optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    callback = ParedownCallback(recipe_of(EPOCHS, rate=RATE))
    args = trainer(tmp_path, None).args
    with pytest.raises(ScheduleError, match="LR scheduler on the same optimizer"):
        InOrder(model, args, train_dataset=samples(), callbacks=[callback], optimizers=(optimizer, scheduler))


def test_what_is_refused_when_training_starts_leaves_the_model_dense(tmp_path):
    svd = {"type": "svd_decomposition", "targets": ["head"], "rank": 2, "guard": "none"}
    model = classifier()
    run = trainer(tmp_path, ParedownCallback(recipe_of(EPOCHS + 1, svd=svd)), model)
    with pytest.raises(ScheduleError, match="takes 5 epochs"):
        run.train()
    assert isinstance(model.head, nn.Linear)


DISTILL = {"type": "knowledge_distillation", "weight": 0.5, "temperature": 1.0}


class Explicit(InOrder):
    """Adds the teacher's term itself; the Trainer divides the whole by the batches of a step."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ours = model(**inputs)
        theirs = self.teacher(**inputs)["logits"].detach().log_softmax(-1)
        term = nn.functional.kl_div(ours["logits"].log_softmax(-1), theirs, log_target=True, reduction="batchmean")
        return 0.5 * ours["loss"] + 0.5 * term


def test_the_last_step_of_an_epoch_weighs_its_own_batches(tmp_path):
    """12 batches, 5 a step: the last step of an epoch has two, by which the Trainer divides."""
    teacher = classifier(seed=1).eval()
    callback = ParedownCallback(recipe_of(2, distill=DISTILL), teacher=teacher)
    ours = trainer(tmp_path, callback, epochs=2, accumulate=5)
    theirs = trainer(tmp_path, None, epochs=2, accumulate=5)
    theirs.__class__, theirs.teacher = Explicit, teacher
    ours.train()
    theirs.train()
    assert furthest(ours.model, theirs.model) < 1e-6


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(samples())


def test_a_stream_that_ends_in_the_middle_of_a_step_is_refused(tmp_path):
    callback = ParedownCallback(recipe_of(2, distill=DISTILL), teacher=classifier(seed=1).eval())
    training = trainer(tmp_path, callback, accumulate=5, max_steps=6)
    training.train_dataset = Stream()
    with pytest.raises(ScheduleError, match=r"gradients of .* batches.*gradient_accumulation_steps"):
        training.train()


QUANTIZED = recipe_of(
    EPOCHS,
    prune=pruning(0.6, end=3),
    quantize={"type": "quantization_aware_training", "start": 2, "weights": {"bits": 4}},
)


def test_checkpoints_and_the_final_folder_are_loaded_for_inference(tmp_path):
    run = trainer(tmp_path, ParedownCallback(QUANTIZED), save_strategy="epoch")
    run.train()
    run.save_model()
    x, labels = data()[0]
    want = run.model.eval()(x, labels)["logits"]
    for folder in (tmp_path / f"checkpoint-{EPOCHS * LENGTH}", tmp_path):
        again = paredown.load(folder, classifier(seed=1)).eval()
        assert torch.allclose(again(x, labels)["logits"], want, atol=1e-6)
    (tmp_path / "paredown.pt").unlink()
    with pytest.raises(CheckpointError, match=r"has no paredown\.pt"):
        paredown.load(tmp_path, classifier())


def test_what_the_trainer_logs_has_sparsity_bits_and_losses(tmp_path):
    run = trainer(tmp_path, ParedownCallback(FOUR_FAMILIES), logging_steps=5)
    run.train()
    logged = [one for one in run.state.log_history if "loss" in one]
    assert logged[0]["paredown/sparsity"] < logged[-1]["paredown/sparsity"]
    assert {"paredown/bits", "paredown/loss/distill"} <= logged[-1].keys()


def test_a_tracker_gets_every_layer(tmp_path):
    pytest.importorskip("tensorboard")
    callback = ParedownCallback(QUANTIZED)
    trainer(tmp_path, callback, report_to=["tensorboard"]).train()
    assert any(tag.startswith("sparsity/") for tag in scalars_in(tmp_path))
    assert callback.manager.events.listeners == []


def test_save_pretrained_of_a_quantized_model_is_said_to_be_float(tmp_path):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    bert = transformers.BertForSequenceClassification(config)
    args = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    items = [{"input_ids": torch.arange(5), "labels": torch.tensor(index % 2)} for index in range(16)]
    quantize = recipe_of(2, quantize={"type": "quantization_aware_training", "activations": None})
    run = transformers.Trainer(bert, args, train_dataset=items, callbacks=[ParedownCallback(quantize)])
    with pytest.warns(UserWarning, match=r"float weights and scales(.|\n)*paredown\.load"):
        run.train()
    run.save_model()
    batch = {"input_ids": torch.arange(5)[None]}
    again = paredown.load(tmp_path, transformers.BertForSequenceClassification(config)).eval()
    assert torch.allclose(again(**batch).logits, bert.eval()(**batch).logits, atol=1e-6)
