"""What the page about long streams says was measured is what was measured."""

import json

import streams_page


def test_the_page_is_what_the_measurements_say():
    found = json.loads(streams_page.RESULT.read_text(encoding="utf-8"))
    text = streams_page.PAGE.read_text(encoding="utf-8")
    assert text == streams_page.page(text, found)


def test_losses_are_told_as_well_as_wins():
    part = {"median_s": 0.1, "spread_s": [0.05, 0.2], "processor_s": 0.09, "n": 100}
    row = {
        "what": "N/i",
        "peak_mib": {"10": 100.0, "1000": 120.0},
        "peak_ratio": 1.2,
        "seconds": {"early": part, "late": {**part, "median_s": 0.3}},
        "seconds_ratio": 3.0,
        "processor_ratio": 1.0,
        "kills": 5,
        "same_student": False,
    }
    found = {
        "versions": {"torch": "2.15.0"},
        "commit": "abc1234",
        "hardware": "A processor",
        "threads": 1,
        "experts": 1000,
        "rows": {"cumulative": row},
    }
    said = streams_page.measured(found)
    words = " ".join(said.split())
    assert "at commit abc1234 on A processor; 1 thread(s); torch 2.15.0. One run of 1,000 experts" in words
    assert "| buffer | MiB after 10 | MiB after 1,000 | last / first |" in said
    assert "| cumulative: N/i | 100.0 | 120.0 | 1.2 |" in said
    assert "| cumulative | late | 0.3 (0.05 – 0.2) | 100 | 0.09 |" in said
    assert "was 20.0 % above that after the tenth; the late experts took 3.0 times the seconds" in words
    assert "resumed, its student had **other bytes**" in words
