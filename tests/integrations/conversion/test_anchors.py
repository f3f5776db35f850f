"""Numbers that anchors and aliases share stay knobs of the new recipe."""

from paredown.integrations.conversion.conversion import convert

ANCHORED = """\
num_epochs: &e 30.0
modifiers:
  - !EpochRangeModifier
      end_epoch: *e
  - !GMPruningModifier
      params: &all __ALL_PRUNABLE__
      final_sparsity: &final-share 0.8
      init_sparsity: 0.0
      start_epoch: 1
      end_epoch: *e
      update_frequency: 1
  - !SetLearningRateModifier
      learning_rate: &in 0.1
      start_epoch: 0
  - !SetWeightDecayModifier
      weight_decay: *in
      start_epoch: 0
"""


def test_a_number_with_aliases_stays_a_variable():
    found = convert(ANCHORED, "old.yaml").recipe
    assert found["variables"] == {"_in": 0.1, "num_epochs": 30.0}
    assert found["run"] == {"epochs": "${variables.num_epochs}"}
    prune, rate, decay = found["modifiers"].values()
    assert (prune["end"], prune["final_sparsity"]) == ("${variables.num_epochs}", 0.8)
    assert rate["final"] == decay["final"] == "${variables._in}"
