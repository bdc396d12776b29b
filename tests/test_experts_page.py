"""What the page about experts says was measured is what was measured."""

import json

import expert_training_page


def test_the_page_is_what_the_measurements_say():
    found = json.loads(expert_training_page.RESULT.read_text(encoding="utf-8"))
    text = expert_training_page.PAGE.read_text(encoding="utf-8")
    assert text == expert_training_page.page(text, found)


def test_a_loss_is_told_as_a_win_is():
    row = {
        "what": "A net",
        "images": 10,
        "n": 3,
        "ours": {"median": 1234.5, "spread": [1000.0, 1500.0]},
        "usual": {"median": 2000.0, "spread": [1900.0, 2100.0]},
        "speedup": {"median": 0.62, "spread": [0.5, 0.7]},
    }
    found = {"commit": "abc1234", "hardware": "A processor", "threads": 1, "versions": {"torch": "2.15.0"}}
    said = expert_training_page.measured({**found, "rows": {"net": row}})
    assert "| A net | 1,234.5 (1,000.0 – 1,500.0) | 2,000.0 (1,900.0 – 2,100.0) | 0.62 (0.5 – 0.7) |" in said
    words = " ".join(said.split())
    assert "medians of 3 epochs each" in words
    assert "at commit abc1234 on A processor; 1 thread(s); torch 2.15.0." in words
