"""Label plans: the union of labels, a user's changes, class ids that never change, and the file that holds them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exml.core.errors import ConfigError, ExpertError, PlanError, UnknownNameError
from exml.experts import Expert, ExpertCard, LabelPlan, labels, plan_labels

SHAPE = (1, 4, 4)


def card(*labels, shape=SHAPE, **fields):
    return ExpertCard("card", tuple(range(len(labels))), shape, labels=labels, **fields)


def numbers(*classes, shape=SHAPE, **fields):
    return ExpertCard("card", classes, shape, **fields)


def expert_of(card):
    units = len(card.outputs or card.classes)
    return card.expert(nn.Sequential(nn.Flatten(), nn.Linear(16, units)))


CARDS = {"pets": card("cat", "dog", "automobile"), "farm": card("dog", "cow"), "cars": card("truck", "car")}


def test_the_union_is_numbered_in_order_of_appearance():
    plan = plan_labels(CARDS)
    assert plan.labels == ("cat", "dog", "automobile", "cow", "truck", "car")
    assert plan.outputs == 6
    assert [plan.id_of(label) for label in plan.labels] == list(range(6))
    assert plan.teachers["dog"] == ("pets", "farm")
    assert "1 label(s) known to more than one expert: 'dog' (pets, farm)" in plan.notes
    with pytest.raises(UnknownNameError, match="'trick', similar to 'truck'"):
        plan.id_of("trick")


@pytest.mark.parametrize(
    ("changes", "labels", "dropped"),
    [
        ({"rename": {"automobile": "car"}}, ("cat", "dog", "car", "cow", "truck"), {}),
        ({"rename": {"farm": {"dog": "collie"}}}, ("cat", "dog", "automobile", "collie", "cow", "truck", "car"), {}),
        ({"rename": {"dog": "hound", "farm": {"dog": "dog"}}, "keep": {"cars": ["car"]}},
         ("cat", "hound", "automobile", "dog", "cow", "car"), {"cars": {"truck"}}),
        ({"keep": {"pets": ["cat", "dog"]}}, ("cat", "dog", "cow", "truck", "car"), {"pets": {"automobile"}}),
        ({"drop": {"pets": ["dog"], "farm": ["dog"]}}, ("cat", "automobile", "cow", "truck", "car"),
         {"pets": {"dog"}, "farm": {"dog"}}),
        ({"rename": {"cat": "dog", "dog": "cat"}}, ("dog", "cat", "automobile", "cow", "truck", "car"), {}),
    ],
    ids=["rename", "rename-one", "one-precedes-all", "keep", "drop", "swap"],
)  # fmt: skip
def test_a_user_renames_keeps_and_drops(changes, labels, dropped):
    plan = plan_labels(CARDS, **changes)
    assert plan.labels == labels
    gone = {name: {label for label, target in own.items() if target is None} for name, own in plan.experts.items()}
    assert {name: labels for name, labels in gone.items() if labels} == dropped


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rename": {"automobil": "car"}}, "no expert has the label 'automobil'; did you mean 'automobile'"),
        ({"rename": {"pest": {"cat": "c"}}}, "no expert 'pest'; did you mean 'pets'"),
        ({"rename": {"farm": {"cat": "c"}}}, "expert 'farm' has no label 'cat'"),
        ({"keep": {"pets": ["cats"]}}, "expert 'pets' has no label 'cats'; did you mean 'cat'"),
        ({"drop": {"farm": ["cow", "dog"]}}, "expert 'farm' has no label left"),
        ({"rename": {"cow": "dog"}}, "expert 'farm' would have the label 'dog' twice, from 'dog' and 'cow'"),
        ({"rename": {"cow": " "}}, "the label ' '"),
        ({"image_shape": (4, 8, 8)}, "images (4, 8, 8) cannot become images (1, 4, 4) of expert 'cars'"),
    ],
)
def test_a_problem_is_named(changes, problem):
    with pytest.raises(PlanError) as raised:
        plan_labels(CARDS, **changes)
    assert any(problem in found for found in raised.value.problems), raised.value.problems


def test_all_problems_are_listed_at_once():
    with pytest.raises(PlanError) as raised:
        plan_labels(CARDS, rename={"automobil": "car"}, keep={"pets": ["cats"]}, drop={"farm": ["cow", "dog"]})
    assert len(raised.value.problems) == 4  # nothing is left of two experts
    with pytest.raises(PlanError, match="no expert: give at least one"):
        plan_labels({})


@pytest.mark.parametrize(
    ("one", "other", "noted"),
    [
        ("Cat", "cat", True),
        ("sports car", "sports_car", True),
        ("T-shirt", "tshirt", True),
        ("dog", "dogs", True),
        ("bus", "Buses", True),
        ("horses", "horse", True),
        ("glasses", "glass", True),
        ("T-shirt/top", "t shirt top", True),
        ("airplane, plane", "plane", True),
        ("gray whale", "grey whale", True),
        ("aeroplane", "airplane", True),
        ("horse", "house", False),
        ("glass", "gloss", False),
        ("class 10", "class 11", False),
        ("n01440764", "n01440765", False),
        ("cat", "car", False),
        ("C++", "C#", False),
    ],
)
def test_near_duplicates_are_pointed_out_and_not_merged(one, other, noted):
    plan = plan_labels({"a": card(one, "zebra"), "b": card("xylophone", other)})
    assert plan.labels == (one, "zebra", "xylophone", other)
    assert any(repr(one) in note and repr(other) in note for note in plan.notes) == noted
    together = plan_labels({"a": card(one, other)})
    assert together.notes == ()  # whoever trained the expert tells them apart


def test_many_labels_are_compared_in_bounded_time():
    thousands = [card(*(f"{part} label {number}" for number in range(2_000))) for part in ("one", "other")]
    (note,) = plan_labels(dict(zip("ab", thousands, strict=True))).notes
    assert "too many" in note
    (note,) = plan_labels({"a": thousands[0], "b": thousands[0]}).notes
    assert note.startswith("2000 label(s)")
    assert note.endswith("and 1980 more (a, b)")


def test_numbers_stay_as_they_are():
    plan = plan_labels({"a": numbers(0, 7, outputs=(0, 7, 9, None)), "b": numbers(3)})
    assert (plan.labels, plan.outputs, plan.notes) == (None, 10, ())
    assert plan.id_of("7") == 7
    for name, own in {"a": numbers(0, 7, outputs=(0, 7, 9, None)), "b": numbers(3)}.items():
        expert = expert_of(own)
        applied = plan.apply(name, expert)
        assert applied.module is expert.module
        assert applied.fingerprint() == expert.fingerprint()
    assert plan_labels({"a": numbers(0, 7)}, keep={"a": ["0"]}).outputs == 1
    named = plan_labels({"a": numbers(0, 7)}, rename={"a": {"0": "cat", "7": "dog"}})
    assert named.labels == ("cat", "dog")


def test_numbers_among_names_become_names():
    plan = plan_labels({"a": numbers(3, 0), "b": card("cat", "3")})
    assert plan.labels == ("3", "0", "cat")
    assert any("only numbers, of 'a', 'b'" in note for note in plan.notes)
    assert plan.apply("a", expert_of(numbers(3, 0))).classes == (0, 1)


def test_equal_labels_without_a_meaning_are_pointed_out():
    cards = {"a": card("LABEL_0", "LABEL_1"), "b": card("LABEL_0", "cat")}
    assert any("'LABEL_0': rename them, unless" in note for note in plan_labels(cards).notes)
    assert not any("meaning" in note for note in plan_labels({"a": cards["a"]}).notes)


def test_class_ids_never_change_when_experts_are_admitted():
    plan = plan_labels({"a": card("cat", "dog")}, rename={"cat": "tom", "dog": "dog"})
    later = plan.admit("b", card("cat", "cow", "dog")).admit("c", numbers(4))
    assert later.labels == ("tom", "dog", "cow", "4")
    assert later.experts["b"] == {"cat": "tom", "cow": "cow", "dog": "dog"}
    numeric = plan_labels({"a": numbers(1, 2)})
    assert numeric.admit("b", numbers(5)).outputs == 6
    mixed = numeric.admit("b", card("cat"))
    assert mixed.labels == ("0", "1", "2", "cat")
    early, late = (plan.apply("a", expert_of(numbers(1, 2))) for plan in (numeric, mixed))
    assert (early.classes, early.outputs, early.labels) == (late.classes, late.outputs, late.labels)
    assert mixed.admit("b", card("cat")) is mixed
    with pytest.raises(PlanError, match="'b' has no label 'cat'; did you mean 'cart'"):
        mixed.admit("b", card("cart"))
    with pytest.raises(PlanError, match="cannot become"):
        mixed.admit("d", card("cat", shape=(2, 4, 4)))


def test_an_expert_gets_the_class_ids_of_the_student():
    own = ExpertCard("b", (5, 6, 7), SHAPE, labels=("dog", "truck", "car"), outputs=(7, 6, None, 5, 2))
    plan = plan_labels({"a": card("cat", "dog"), "b": own}, drop={"b": ["truck"]}, rename={"b": {"car": "auto"}})
    expert = expert_of(own)
    applied = plan.apply("b", expert)
    assert applied.labels == ("dog", "auto")
    assert applied.classes == (1, 2)
    assert applied.outputs == (2, None, None, 1, None)  # a unit without a name stands for nothing
    images = torch.rand(3, *SHAPE)
    assert torch.equal(applied.teach(images, 3).logits[:, 1:], expert.logits(images)[:, [3, 0]])
    with pytest.raises(ExpertError, match="a plan for expert 'c'"):
        plan.apply("c", expert)
    with pytest.raises(ExpertError, match="'cat', 'dog'"):
        plan.apply("a", expert)


@pytest.mark.parametrize(
    ("shapes", "chosen", "shape", "mean"),
    [
        ([(1, 28, 28)] * 2, None, (1, 28, 28), (0.0,)),
        ([(1, 28, 28), (1, 32, 32)], None, (1, 32, 32), (0.0,)),
        ([(1, 28, 28), (3, 32, 32)], None, (3, 32, 32), (0.25,)),
        ([(3, 16, 16), (1, 28, 28)], None, (3, 28, 28), (0.0,)),
        ([(3, 32, 32), (3, 224, 224)], None, (3, 64, 64), (0.0,)),
        ([(3, 224, 224), (3, 256, 256)], None, (3, 224, 224), (0.0,)),
        ([(1, 28, 28), (1, 32, 32)], (3, 40, 40), (3, 40, 40), (0.5,)),
    ],
)
def test_the_image_space(shapes, chosen, shape, mean):
    cards = {f"e{i}": card(f"label {i}", shape=each, mean=(i / 4,)) for i, each in enumerate(shapes)}
    plan = plan_labels(cards, image_shape=chosen)
    assert (plan.image_shape, plan.mean) == (shape, mean)
    for name, own in cards.items():
        applied = plan.apply(name, Expert(nn.Flatten(), (0,), own.image_shape, labels=own.labels))
        assert applied.image_shape == shape


def test_plans_of_many_labels_are_read_within_a_limit(monkeypatch):
    plan = plan_labels({"a": card(*(f"label {number}" for number in range(51_000)))})
    text = plan.to_yaml()
    assert LabelPlan.from_yaml(text) == plan
    monkeypatch.setattr(labels, "VALUES", 100_000)
    with pytest.raises(ConfigError, match=r"at most 100000 values, got more; remedy: .*shorten the file"):
        LabelPlan.from_yaml(text)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(labels=st.lists(names, min_size=1, max_size=6, unique=True), data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_file_gives_the_plan_back(labels, data):
    drop = data.draw(st.sets(st.sampled_from(labels), max_size=len(labels) - 1))
    cards = {labels[0]: card(*labels), "other name": numbers(0, 4, shape=(3, 8, 8))}
    plan = plan_labels(cards, drop={labels[0]: drop}, rename={labels[-1]: "an: [odd] #name"})
    late = plan.admit("late", card("0", "new", shape=(1, 8, 8)))
    for made in (plan, late, plan_labels({"n": numbers(2, 5)}), plan_labels({"a": card("1", "0")})):
        assert LabelPlan.from_yaml(made.to_yaml()) == made
        assert copy.deepcopy(made) == made


def test_the_file_can_be_edited():
    text = plan_labels({"a": card("cat", "dog", "yes"), "b": card("car", "cat")}).to_yaml()
    plan = LabelPlan.from_yaml(text.replace("car: car", "car: auto").replace("    dog: dog\n", ""))
    assert plan.labels == ("cat", "yes", "auto")
    assert plan.admit("a", card("cat", "dog", "yes")).apply("a", expert_of(card("cat", "dog", "yes"))).classes == (0, 1)
    ordered = LabelPlan.from_yaml(text + "labels: [yes, car]\n".replace("yes", "'yes'"))
    assert ordered.labels == ("yes", "car", "cat", "dog")
    spare = LabelPlan.from_yaml(text + "labels: [spare, cat]\n")
    assert spare.labels == ("spare", "cat", "dog", "yes", "car")
    assert any("no expert of the plan knows: 'spare'" in note for note in spare.notes)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("experts: {a: {cat: 3}}\nimage_shape: [1, 4, 4]", ConfigError, r"plan.yaml.experts\[a\]\[cat\]"),
        ("experts: {a: {cat: cat}}", ConfigError, "image_shape"),
        ("experts: {a: {cat: cat}}\nimage_shape: [1, 4]", ConfigError, "plan.yaml.image_shape"),
        ("expert: {a: {cat: cat}}\nimage_shape: [1, 4, 4]", ConfigError, "plan.yaml.expert"),
        ("experts: {a: {no: cat}}\nimage_shape: [1, 4, 4]", ConfigError, "quotation marks"),
        ("experts: {a: {cat: ~}}\nimage_shape: [1, 4, 4]", PlanError, "'a' has no label left"),
        ("experts: {a: {cat: b, dog: b}}\nimage_shape: [1, 4, 4]", PlanError, "'b' twice"),
        ("experts: {a: {cat: b}}\nlabels: [b, b]\nimage_shape: [1, 4, 4]", PlanError, "lists 'b' twice"),
        ("experts: {a: {cat: b}}\nstd: [0]\nimage_shape: [1, 4, 4]", PlanError, "every std > 0"),
        ("experts: {a: ~}\nimage_shape: [1, 4, 4]", ConfigError, r"a mapping at plan.yaml.experts\[a\], got None"),
        ("outputs: -1\nexperts: {a: {'0': '0'}}\nimage_shape: [1, 4, 4]", ConfigError, "LabelPlan.outputs"),
        ("experts: [", ConfigError, "valid YAML"),
        ("experts: {}\nimage_shape: [1, 4, 4]", PlanError, "no expert"),
    ],
)
def test_a_fault_in_the_file_is_named(text, error, message):
    with pytest.raises(error, match=message):
        LabelPlan.from_yaml(text, "plan.yaml")
