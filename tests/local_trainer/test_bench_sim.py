from local_trainer.bench.sim import run


def test_measures_every_figure() -> None:
    figures = run("Oval_track", num_cars=4, rounds=2, slice_s=0.02)
    assert set(figures) == {
        "cars",
        "steps_per_second",
        "steps_per_second_python_reward",
        "steps_per_second_one_car",
        "lookup_per_second",
        "share_of_lookup",
    }
    assert figures["cars"] == 4
    assert all(figure > 0.0 for figure in figures.values())
