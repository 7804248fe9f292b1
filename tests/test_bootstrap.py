import pytest

from rlaif_dpo.bootstrap import draw, estimate, rates

np = pytest.importorskip("numpy")


def test_line_zero_is_the_sample_and_every_resample_has_as_many_rows() -> None:
    draws = draw(7, 50, seed=1)
    assert draws.shape == (51, 7)
    assert (draws[0] == 1).all()
    assert (draws.sum(axis=1) == 7).all()
    assert (draw(7, 50, seed=1) == draws).all()
    assert (draw(7, 50, seed=2) != draws).any()


def test_rates_leave_out_rows_to_which_the_outcome_does_not_apply() -> None:
    """Outcomes 1, 0, None, 1. Line 0: (1 + 0 + 1) / 3 = 2/3. A resample that draws them (2, 0, 1, 1) times: (2 + 1) / 3 = 1."""
    draws = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]])
    assert rates([1, 0, None, 1], draws) == pytest.approx([2 / 3, 1.0])


def test_interval_covers_a_known_rate_about_95_times_in_100() -> None:
    """60 prompts, rate .7, 200 worlds: nominal coverage .95 +- 3 sd of .015, less a point or two of the method's optimism."""
    world = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        outcomes = (world.random(60) < 0.7).astype(float)
        found = estimate(rates(outcomes.tolist(), draw(60, 400, trial)), 60)
        covered += found["low"] <= 0.7 <= found["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    """b keeps whatever a keeps and 10 rows more: the paired difference varies only by those 10 rows."""
    a, b = [1.0] * 40 + [0.0] * 60, [1.0] * 50 + [0.0] * 50
    draws = draw(100, 1000, seed=3)
    paired = estimate(rates(b, draws) - rates(a, draws), 100, share=False)
    unpaired = estimate(rates(b, draw(100, 1000, seed=4)) - rates(a, draws), 100, share=False)
    assert paired["value"] == unpaired["value"] == pytest.approx(0.1)
    assert paired["low"] > 0
    assert paired["high"] - paired["low"] < 0.6 * (unpaired["high"] - unpaired["low"])


def test_nothing_seen_is_not_nothing_possible() -> None:
    """0 of 30: high = 1 - .025^(1/30) = 1 - exp(-.12296) = .1157 (Clopper-Pearson); all of 30 mirrors it."""
    draws = draw(30, 100, seed=0)
    none, every = estimate(rates([0.0] * 30, draws), 30), estimate(rates([1.0] * 30, draws), 30)
    assert (none["value"], none["low"]) == (0, 0)
    assert none["high"] == pytest.approx(0.11570, abs=1e-5)
    assert (every["value"], every["high"]) == (1, 1)
    assert every["low"] == pytest.approx(1 - 0.11570, abs=1e-5)


def test_no_rows_give_no_number() -> None:
    assert estimate(rates([None, None], draw(2, 10, seed=0)), 0) == {"value": None, "low": None, "high": None, "n": 0}
