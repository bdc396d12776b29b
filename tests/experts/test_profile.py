"""A profile says the same of experts on disk, of live experts and of a scenario."""

import attrs
import pytest
import torch
from torch import nn

import exml
from exml import ExpertProfile, scenarios
from exml.core.activation import batch_norm_layers
from exml.core.errors import ExpertError, ShapeError, StreamError
from exml.experts import read_cards, save_expert
from exml.models import ConvNet
from tests.norms import NORMS, network


class OwnNorm(nn.Module):
    """Running statistics in a class that no list knows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", nn.Parameter().new_zeros(3))
        self.register_buffer("running_var", nn.Parameter().new_ones(3))


def experts(tasks=(None, None)):
    modules = [ConvNet(1, 3, 4, widths=(2,)), ConvNet(1, 3, 4, widths=(2,), batch_norm=False)]
    known = ((0, 1), (4, 1))
    return [
        exml.Expert(module, own, (1, 4, 4), outputs=(*own, None), mean=(0.25,), task=task, name=f"e{number}")
        for number, (module, own, task) in enumerate(zip(modules, known, tasks, strict=True))
    ]


def test_files_and_live_experts_have_one_profile(tmp_path):
    live = ExpertProfile.from_experts(experts())
    for expert in experts():
        save_expert(expert, tmp_path)
    assert ExpertProfile.from_folder(tmp_path) == live
    cards = read_cards(tmp_path)
    assert ExpertProfile.from_cards({"e1": cards["e1"]}, tmp_path).experts == live.experts[1:]
    assert ExpertProfile.from_folder(tmp_path, open_ended=True) == attrs.evolve(live, open_ended=True) != live
    assert hash(live) == hash(ExpertProfile.from_folder(tmp_path))


def test_what_a_profile_says():
    profile = ExpertProfile.from_experts(experts())
    assert (profile.count, profile.classes) == (2, 5)
    assert (profile.image_shape, profile.image_shapes) == ((1, 4, 4), ((1, 4, 4),))
    assert (profile.normalizations, profile.tasks) == ((((0.25,), (1.0,)),), None)
    assert [expert.running_statistics for expert in profile.experts] == [("features.1",), ()]
    assert repr(profile) == "ExpertProfile(2 experts, 5 classes, images 1x4x4, 1 with running statistics)"
    followed = attrs.evolve(profile, experts=profile.experts[:1], open_ended=True)
    assert followed.count is None
    assert repr(followed) == "ExpertProfile(1 expert or more, 2 classes, images 1x4x4, 1 with running statistics)"


@pytest.mark.parametrize(
    ("labels", "tasks"), [((1, 0), ((1, 4), (0, 1))), ((0, 0), ((0, 1, 4),)), ((0, None), None), ((0, 2), None)]
)
def test_tasks_need_a_label_on_every_expert(labels, tasks):
    profile = ExpertProfile.from_experts(experts(labels))
    assert profile.tasks == tasks
    assert ("tasks" in repr(profile)) == (tasks is not None)


def test_running_statistics_are_found_by_their_buffers():
    expert = exml.Expert(nn.Sequential(nn.Flatten(), OwnNorm()), (0,), (3, 1, 1))
    half = exml.Expert(nn.Module(), (0,), (3, 1, 1))
    half.module.register_buffer("running_mean", nn.Parameter().new_zeros(3))
    bare = exml.Expert(OwnNorm(), (0,), (3, 1, 1))
    other = exml.Expert(nn.Module(), (0,), (3, 1, 1))
    for name, shape in (("my_running_mean", 3), ("my_running_var", 3), ("running_mean", 3), ("running_var", 2)):
        other.module.register_buffer(name, torch.zeros(shape))
    found = [traits.running_statistics for traits in ExpertProfile.from_experts([expert, half, bare, other]).experts]
    assert found == [("1",), (), ("",), ()]


@pytest.mark.parametrize("name", NORMS)
def test_a_profile_and_a_module_agree_on_running_statistics(name):
    module = network(NORMS[name](4))
    (traits,) = ExpertProfile.from_experts([exml.Expert(module, range(4), (3, 8, 8))]).experts
    assert traits.running_statistics == tuple(layer for layer, _ in batch_norm_layers(module)) == ("1",)


def test_images_of_several_shapes_have_no_common_one():
    other = attrs.evolve(experts()[0], image_shape=(1, 8, 8))
    profile = ExpertProfile.from_experts([other, experts()[1]])
    assert profile.image_shapes == ((1, 4, 4), (1, 8, 8))
    with pytest.raises(ShapeError, match="one shape"):
        _ = profile.image_shape


def test_what_has_no_profile_is_a_typed_error(tmp_path):
    with pytest.raises(StreamError, match="at least one expert"):
        ExpertProfile.from_experts([])
    card = save_expert(experts()[0], tmp_path)
    card.with_suffix(".safetensors").write_bytes(b"cut short")
    with pytest.raises(ExpertError, match=r"e0\.safetensors"):
        ExpertProfile.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["digits-nc", "digits-mt", "digits-ni", "digits-joint"])
def test_a_scenario_has_the_profile_of_its_experts(name):
    scenario = scenarios.load(name, 1)
    training = attrs.evolve(scenario.training, epochs=1)
    trained = attrs.evolve(scenario, training=training).train_experts()
    assert scenario.profile() == ExpertProfile.from_experts(trained)
    assert scenario.profile().tasks == scenario.tasks
