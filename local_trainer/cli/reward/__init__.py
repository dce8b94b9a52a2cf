"""``local-trainer reward``: work on a reward function offline. One module a command."""

from __future__ import annotations

import typer

from local_trainer.cli.reward import check, hack, line, map, rank, replay, watch

app = typer.Typer(help="Work on a reward function offline, in seconds.", no_args_is_help=True)

app.command("check")(check.check)
app.command("hack")(hack.hack)
app.command("line")(line.line)
app.command("map")(map.reward_map)
app.command("rank")(rank.rank)
app.command("replay")(replay.replay)
app.command("watch")(watch.watch)
