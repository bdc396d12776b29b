"""What the page about datasets says was measured of large photographs is what was measured."""

import json

import large_images_page


def test_the_page_is_what_the_measurements_say():
    found = json.loads(large_images_page.RESULT.read_text(encoding="utf-8"))
    text = large_images_page.PAGE.read_text(encoding="utf-8")
    assert text == large_images_page.page(text, found)


def test_times_memory_and_accuracies_of_both_streams_are_told():
    stage = {"stage": "learn", "cpu_seconds": 12.34, "peak_resident_mib": 2048}
    found = {
        "environment": {"versions": {"torch": "2.15.0"}, "device": "cpu", "hardware": "A processor", "threads": 1},
        "commit": "abc1234",
        "n": {"runs": 1, "frames": {"train": 70, "test": 20}},
        "cpu_seconds": 99.6,
        "peak_resident_mib": 3072,
        "stages": [
            stage | {"stream": "both", "stage": "read"},
            stage | {"stream": "new instances"},
            stage | {"stream": "new classes", "cpu_seconds": 5.0},
        ],
        "accuracy": {
            "new instances": {"experts": [0.7, 0.25], "student": 0.1},
            "new classes": {"experts": [0.5, 1.0], "student": 0.2, "oracle": 0.45},
        },
    }
    said = large_images_page.measured(found)
    assert "| learn | 12.3 s, 2.0 GiB | 5.0 s, 2.0 GiB |" in said
    assert "| experts | 70, 25 | 50, 100 |" in said
    assert "| oracle |  | 45 |" in said
    words = " ".join(said.split())
    assert "at commit abc1234 on A processor, cpu; 1 thread(s); torch 2.15.0." in words
    assert "In all 100 seconds of the processor, and 3.0 GiB of memory at most." in words
