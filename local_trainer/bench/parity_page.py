"""The report of ``bench parity`` as one offline page."""

from __future__ import annotations

from typing import Any

from local_trainer.bench.parity import Parity
from local_trainer.bench.parity_plots import (
    plot_cameras,
    plot_speed_responses,
    plot_trajectories,
    plot_turns,
)
from local_trainer.page import Badge, Cell, Page
from local_trainer.plots import png

LIMITS = {
    "camera_mean_abs_difference": 4.0,
    "turning_radius_max_error": 0.05,
    "speed_response_max_error": 0.05,
    "end_point_error_1mps_m": 0.05,
    "end_point_error_2mps_m": 0.15,
}
"""Most that each figure should be."""

_LEAST_LAPS = 4


def build_page(parity: Parity, figures: dict[str, Any]) -> Page:
    """Return the report's page.

    Args:
        parity: What was compared.
        figures: What `Parity.figures` made of it.
    """
    page = Page(
        "Embedded simulator and Gazebo",
        "The same poses, commands and policy in both; Gazebo is the reference.",
        width_px=1240,
    )
    page.table(("What", ">Measured", ">Limit", ""), _verdicts(parity, figures))
    page.section("Camera: the worst pose of each track, and the mean of all")
    page.picture(png(plot_cameras(parity.cameras)), alt="Pictures of both and their difference")
    page.section("Car: steady turns")
    page.text(
        "Straight ahead for a second, then two seconds of constant steering; left and right "
        "averaged, which in Gazebo differ by at most "
        f"{100 * figures['turning_radius_left_right_difference']:.1f} %. "
        f"{figures['turning_radius_within_5_percent']} of {figures['turns']} radii agree within "
        f"5 %; the median difference is {100 * figures['turning_radius_median_error']:.1f} %."
    )
    page.picture(png(plot_turns(parity.turns)), alt="Tables of turning radii and their errors")
    page.section("Car: changes of speed")
    page.picture(png(plot_speed_responses(parity.responses)), alt="Speed over time in both")
    page.section("Open-loop trajectories")
    page.picture(png(plot_trajectories(parity.trajectories)), alt="Paths driven in both")
    if parity.laps is not None:
        page.section("Laps in Gazebo of a policy trained in the embedded simulator")
        page.table(("Lap", ">Progress", ">Seconds", "End"), _laps(parity.laps))
    return page


def _verdicts(parity: Parity, figures: dict[str, Any]) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = [
        (
            name.replace("_", " "),
            f"{figures[name]:.3g}",
            f"≤ {limit:g}",
            _judge(figures[name] <= limit),
        )
        for name, limit in LIMITS.items()
    ]
    if parity.laps is not None:
        completed = figures["laps_in_gazebo"]
        rows.append(
            (
                "laps in gazebo",
                f"{completed} of {figures['laps_driven']}",
                f"≥ {_LEAST_LAPS}",
                _judge(completed >= _LEAST_LAPS),
            )
        )
    return rows


def _judge(holds: bool) -> Badge:
    return Badge("holds", "good") if holds else Badge("does not hold", "bad")


def _laps(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(number),
            f"{lap['completion_percentage']:.0f} %",
            f"{lap['elapsed_time_s']:.2f}",
            lap["status"].replace("_", " "),
        )
        for number, lap in enumerate(report["trials"], start=1)
    ]
