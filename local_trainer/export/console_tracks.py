"""The tracks that the console (DeepRacer on AWS) knows, and how one of ours is named there."""

from __future__ import annotations

from dataclasses import dataclass

from local_trainer.errors import ConfigError
from sim.track import Track

# The two tracks of the championships exist only with a suffix; their order is not known.
CONSOLE_TRACKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "2022_april_open": (
        "Ace Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_april_pro": (
        "Ace Super Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_august_open": (
        "Jochem Turnpike",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_august_pro": (
        "Jochem Highway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_july_open": ("DBro Raceway", ("ccw",)),
    "2022_july_pro": (
        "DBro Super Raceway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_june_open": (
        "BreadCentric Loop",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_june_pro": (
        "BreadCentric Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_march_open": (
        "Rogue Circuit",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_march_pro": (
        "Rogue Raceway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_may_open": (
        "Ross Raceway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_may_pro": (
        "Ross Super Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_october_open": (
        "Jennens Family Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_october_pro": (
        "Jennens Super Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_reinvent_champ": (
        "2022 re:Invent Championship",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_september_open": (
        "Roger Ring",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_september_pro": (
        "Roger Super Raceway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2022_summit_speedway": (
        "RL Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "2024_reinvent_champ": (
        "Forever Raceway",
        (
            "ccw",
            "cw",
        ),
    ),
    "Albert": ("Yun Speedway", ("cw",)),
    "AmericasGeneratedInclStart": ("Baadal Track", ("ccw",)),
    "Aragon": ("Stratus Loop", ("cw",)),
    "arctic_open": (
        "Hot Rod Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "arctic_pro": (
        "Hot Rod Super Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "Austin": ("American Hills Speedway", ("ccw",)),
    "Belille": ("Cumulo Turnpike", ("cw",)),
    "Bowtie_track": ("Bowtie Track", ("ccw",)),
    "caecer_gp": ("Vivalas Speedway", ("ccw",)),
    "caecer_loop": ("Vivalas Loop", ("ccw",)),
    "Canada_Training": ("Toronto Turnpike Training", ("ccw",)),
    "China_track": ("Shanghai Sudu Training", ("ccw",)),
    "dubai_open": (
        "Baja Turnpike",
        (
            "ccw",
            "cw",
        ),
    ),
    "dubai_pro": ("Baja Highway", ("ccw",)),
    "FS_June2020": ("Fumiaki Loop", ("cw",)),
    "hamption_open": ("Kuei Raceway", ("ccw",)),
    "hamption_pro": ("Kuei Super Raceway", ("ccw",)),
    "July_2020": ("Roger Raceway", ("cw",)),
    "jyllandsringen_open": (
        "Cosmic Loop",
        (
            "ccw",
            "cw",
        ),
    ),
    "jyllandsringen_pro": (
        "Cosmic Circuit",
        (
            "ccw",
            "cw",
        ),
    ),
    "LGSWide": ("SOLA Speedway", ("ccw",)),
    "Mexico_track": ("Cumulo Carrera Training", ("ccw",)),
    "Monaco": ("European Seaside Circuit", ("cw",)),
    "Monaco_building": ("European Seaside Circuit - Buildings", ("cw",)),
    "morgan_open": ("Playa Raceway", ("ccw",)),
    "morgan_pro": ("Playa Super Raceway", ("ccw",)),
    "New_York_Track": ("Empire City Training", ("ccw",)),
    "Oval_track": ("Oval Track", ("ccw",)),
    "penbay_open": (
        "Po-Chun Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "penbay_pro": (
        "Po-Chun Super Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "red_star_open": ("Expedition Loop", ("ccw",)),
    "red_star_pro": (
        "Expedition Super Loop",
        (
            "ccw",
            "cw",
        ),
    ),
    "reInvent2019_track": (
        "Smile Speedway",
        (
            "ccw",
            "cw",
        ),
    ),
    "reInvent2019_wide": (
        "A to Z Speedway",
        (
            "cw",
            "ccw",
        ),
    ),
    "reinvent_base": ("re:Invent 2018", ("ccw",)),
    "Singapore": ("Asia Pacific Bay Loop", ("ccw",)),
    "Singapore_building": ("Asia Pacific Bay Loop - Buildings", ("ccw",)),
    "Spain_track": ("Circuit de Barcelona-Catalunya", ("cw",)),
    "thunder_hill_open": ("Lars Loop", ("ccw",)),
    "thunder_hill_pro": (
        "Lars Circuit",
        (
            "ccw",
            "cw",
        ),
    ),
    "Tokyo_Training_track": ("Kumo Torakku Training", ("ccw",)),
    "Vegas_track": ("AWS Summit Raceway", ("ccw",)),
    "Virtual_May19_Train_track": ("London Loop Training", ("ccw",)),
}
"""Name in files -> (name on the page, directions with the default first)."""


@dataclass(frozen=True)
class ConsolePlace:
    """Where the console puts a model: a track of its own and the way round."""

    world_name: str
    """Without direction suffix."""
    is_clockwise: bool
    is_reversed: bool
    """Whether the car drives against the direction of a track that has only one there."""

    @property
    def title(self) -> str:
        """Return the track's name on the console's page."""
        return CONSOLE_TRACKS[self.world_name][0]


def split_direction(name: str) -> tuple[str, str | None]:
    """Return a route's name without its direction suffix, and ``cw``, ``ccw`` or None."""
    for direction in ("ccw", "cw"):
        base = name.removesuffix(f"_{direction}")
        if base != name:
            return base, direction
    return name, None


def console_place(track: Track, is_reversed: bool, name: str | None = None) -> ConsolePlace:
    """Return how the console names a track that a model was trained on.

    Args:
        track: In row order.
        is_reversed: Whether training drove against the row order.
        name: Track of the console to name instead of the track's own name.

    Raises:
        ConfigError: If the console does not know the track; lists those it knows.
    """
    base, _ = split_direction(name or track.name)
    if base not in CONSOLE_TRACKS:
        hint = "" if name is not None else "; --track NAME puts the model on one of them"
        raise ConfigError(
            f"The console does not know the track {name or track.name!r}{hint}. It knows: "
            f"{', '.join(CONSOLE_TRACKS)}."
        )
    directions = CONSOLE_TRACKS[base][1]
    drives_clockwise = track.is_ccw == is_reversed
    if len(directions) > 1:
        return ConsolePlace(base, drives_clockwise, is_reversed=False)
    is_clockwise = directions[0] == "cw"
    return ConsolePlace(base, is_clockwise, is_reversed=drives_clockwise != is_clockwise)
