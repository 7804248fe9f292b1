from rlaif_dpo.report.numbers import duration, interval, number, percent, points, points_interval


def test_shares_and_points() -> None:
    assert [percent(x) for x in (0.8472, 1.0, 0.0, None, 0.004)] == ["84.7%", "100%", "0%", "–", "0.4%"]
    assert [points(x) for x in (0.128, -0.015, 0.0, -0.0001, None)] == ["+12.8", "−1.5", "0.0", "0.0", "–"]
    found = {"value": 0.5, "low": 0.25, "high": 1.0, "n": 4}
    assert interval(found) == "25.0–100"
    assert points_interval({**found, "low": -0.1}) == "−10.0 to +100.0"
    assert interval({"value": None, "low": None, "high": None, "n": 0}) == points_interval(None) == "–"


def test_numbers_and_durations() -> None:
    assert [number(x) for x in (12345, -2, 0.5, -0.25, None)] == ["12,345", "−2", "0.50", "−0.25", "–"]
    assert [duration(x) for x in (8.44, 192, 7500, None)] == ["8.4 s", "3 min 12 s", "2 h 05 min", "–"]
    assert duration(59.97) == "1 min 00 s"
